"""A route whose request is one JSON body, read and answered without FastAPI's general machinery.

FastAPI resolves dependencies, parses the body, validates it and validates the answer in steps of
their own, which together take as long as all that the ingress does for a recommendation. Here
pydantic reads the bytes and writes the answer. A request that is not as it should be takes
FastAPI's way, which says what is wrong with it; the documentation is FastAPI's too.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from ray import serve

JSON = "application/json"


class BodyRoute(APIRoute):
    """Leads to a method of the replica that takes one body and returns one model."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        explain = super().get_route_handler()
        (body_param,) = self.dependant.body_params
        annotation: Any = body_param.field_info.annotation
        read = TypeAdapter(annotation).validate_json
        write = TypeAdapter(self.response_model).dump_json

        async def answer(request: Request) -> Response:
            if request.headers.get("content-type") != JSON:
                return await explain(request)
            try:
                body = read(await request.body())
            except ValidationError:
                return await explain(request)
            replica = serve.get_replica_context().servable_object
            return Response(write(await self.endpoint(replica, body)), media_type=JSON)

        return answer
