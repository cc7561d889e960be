"""A route whose request is one JSON body, with a way past FastAPI's general machinery.

FastAPI and Starlette route again, resolve dependencies, parse the body, validate it, validate the
answer and wrap each step against exceptions; together that takes as long as all that the ingress
does for a recommendation. The door knows the route already and holds the whole body, so it lets
pydantic read the bytes and write the answer. A request that is not as it should be takes FastAPI's
way, which says what is wrong with it; the documentation is FastAPI's too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, get_args

from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from ray import serve

Quick = Callable[[bytes], Awaitable[bytes | None]]
"""Body -> answer, both JSON; None: FastAPI has to say what is wrong with the body."""


class BodyRoute(APIRoute):
    """Leads to a method of the replica that takes one body and returns one model of one or more."""

    def quick(self) -> Quick:
        """Return what answers a body."""
        (body_param,) = self.dependant.body_params
        annotation: Any = body_param.field_info.annotation
        read = TypeAdapter(annotation).validate_json
        kinds = get_args(self.response_model) or (self.response_model,)
        write = {kind: TypeAdapter(kind).dump_json for kind in kinds}

        async def answer(body: bytes) -> bytes | None:
            try:
                wanted = read(body)
            except ValidationError:
                return None
            replica = serve.get_replica_context().servable_object
            told = await self.endpoint(replica, wanted)
            return write[type(told)](told)

        return answer
