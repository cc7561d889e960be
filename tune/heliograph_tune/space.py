"""The search space: which settings are drawn, from what, and under which condition.

Checked against the configuration before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna import Trial
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler

from heliograph.config import HeliographConfig
from heliograph.config_file import ConfigError
from heliograph_tune.distributions import (
    Choice,
    Distribution,
    Drawn,
    Integer,
    LogUniform,
    Uniform,
    draw,
    drawn_for,
    for_optuna,
)
from heliograph_tune.setting import Setting, find_setting, value_at, with_settings

SAMPLE = 64
"""Draws by which a space is judged before anything starts."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Space:
    """Settings to be drawn, those that others depend on first."""

    def __init__(self, parameters: Mapping[str, Distribution]) -> None:
        """Order the parameters.

        Raises:
            ConfigError: A condition names no parameter, a value it cannot have, or goes in circles.
        """
        for path, distribution in parameters.items():
            _check_condition(path, distribution, parameters)
        self.parameters = {path: parameters[path] for path in _ordered(parameters)}
        drawn = {
            path: for_optuna(distribution)
            for path, distribution in sorted(self.parameters.items())
            if not distribution.where
        }
        self.together = {path: found for path, found in drawn.items() if not found.single()}
        """What every trial draws, and not always the same, in Optuna's words."""

    @property
    def settings_drawn(self) -> set[str]:
        """Every path that some trial may set, those in the mappings of a section among them."""
        inner = {
            f"{path}.{name}"
            for path, distribution in self.parameters.items()
            if isinstance(distribution, Choice)
            for value in distribution.values
            if isinstance(value, Mapping)
            for name in value
        }
        return inner | set(self.parameters)

    def draw(self, trial: Trial) -> dict[str, Any]:
        """Draw a value for every parameter whose condition holds."""
        settings: dict[str, Any] = {}
        for path, distribution in self.parameters.items():
            if _holds(distribution, settings):
                settings[path] = draw(trial, path, distribution)
        return settings

    def drawn_for(self, settings: Mapping[str, Any]) -> dict[str, Drawn] | None:
        """Return what would have been drawn for settings; None where they are outside."""
        drawn: dict[str, Drawn] = {}
        for path, distribution in self.parameters.items():
            if not _holds(distribution, settings):
                continue
            value = drawn_for(distribution, settings.get(path))
            if value is None:
                return None
            drawn[path] = value
        return drawn

    def distributions(self, drawn: Mapping[str, Drawn]) -> dict[str, BaseDistribution]:
        """Return the distributions of what was drawn, in Optuna's words."""
        return {path: for_optuna(self.parameters[path]) for path in drawn}

    def settings_of(self, config: HeliographConfig) -> dict[str, Any]:
        """Return the values that a configuration has for every parameter."""
        found = {}
        for path, distribution in self.parameters.items():
            value = value_at(config, path)
            if isinstance(distribution, Choice) and isinstance(value, dict):
                value = next((v for v in distribution.values if _agrees(value, v)), value)
            found[path] = value
        return found


def check_space(
    parameters: Mapping[str, Distribution], read: tuple[str, ...], config: HeliographConfig
) -> Space:
    """Check every path and bound against the configuration and return the space.

    Args:
        parameters: Path -> distribution.
        read: Sections that the searched part reads; settings elsewhere would change nothing.
        config: The configuration whose settings are searched.

    Raises:
        ConfigError: With the first thing that is wrong, and what would be right.
    """
    if not parameters:
        raise ConfigError("the space is empty; name one setting or more, such as train.lr")
    checked = {
        path: _checked(find_setting(path), distribution)
        for path, distribution in parameters.items()
    }
    for path in parameters:
        if not any(f"{path}.".startswith(f"{section}.") for section in read):
            raise ConfigError(
                f"{path} changes nothing here: this search reads {', '.join(read)}; "
                "take it out of the space or search another part"
            )
        _check_overlap(path, parameters)
    for path, distribution in checked.items():
        if isinstance(distribution, Choice) and _is_alone(path, checked):
            for value in distribution.values:
                with_settings(config, {path: value})
    space = Space(checked)
    _check_draws(space, config)
    return space


def _checked(setting: Setting, distribution: Distribution) -> Distribution:
    """Return the distribution with its values as the configuration would hold them."""
    path = setting.path
    if isinstance(distribution, Choice):
        if setting.is_section:
            _check_mappings(setting, distribution)
            return distribution
        values = tuple(setting.check(value) for value in distribution.values)
        return distribution.model_copy(update={"values": values})
    if isinstance(distribution, Integer):
        if not (setting.is_whole_number or setting.is_number):
            raise ConfigError(f"{path} is no number; use type: choice with values")
    elif not setting.is_number:
        fitting = "integer" if setting.is_whole_number else "choice"
        raise ConfigError(f"{path} takes no fractions; use type: {fitting}")
    for bound in (distribution.low, distribution.high):
        setting.check(bound)
    return distribution


def _check_mappings(section: Setting, distribution: Choice) -> None:
    for value in distribution.values:
        if not isinstance(value, dict) or not value:
            raise ConfigError(
                f"{section.path} is a section: its values are mappings such as "
                f"{{hidden_size: 128, heads: 4}}, got {value!r}"
            )
        for name, inner in value.items():
            find_setting(f"{section.path}.{name}").check(inner)


def _check_overlap(path: str, parameters: Mapping[str, Distribution]) -> None:
    above = [other for other in parameters if path.startswith(f"{other}.")]
    if above:
        raise ConfigError(f"{path} lies in {above[0]}, which is searched too; keep one of them")


def _check_condition(
    path: str, distribution: Distribution, parameters: Mapping[str, Distribution]
) -> None:
    for other, values in distribution.where.items():
        parent = parameters.get(other)
        if parent is None or other == path:
            names = ", ".join(name for name in parameters if name != path)
            raise ConfigError(f"{path}: where names {other}, which is not searched; here: {names}")
        if isinstance(parent, Uniform | LogUniform):
            raise ConfigError(
                f"{path}: where names {other}, which is any number from {parent.low:g} to "
                f"{parent.high:g} and so practically never {values[0]!r}; draw {other} from "
                "type: choice, or take where out"
            )
        for value in values:
            if drawn_for(parent, value) is None:
                raise ConfigError(f"{path}: where {other} is {value!r}, which is never drawn")


def _ordered(parameters: Mapping[str, Distribution]) -> list[str]:
    """Order paths so that each comes after those that its condition names."""
    done: list[str] = []
    while len(done) < len(parameters):
        ready = [
            path
            for path, distribution in parameters.items()
            if path not in done and set(distribution.where) <= set(done)
        ]
        if not ready:
            left = ", ".join(path for path in parameters if path not in done)
            raise ConfigError(f"conditions go in a circle: {left}")
        done += ready
    return done


def _holds(distribution: Distribution, settings: Mapping[str, Any]) -> bool:
    return all(
        path in settings and settings[path] in values for path, values in distribution.where.items()
    )


def _check_draws(space: Space, config: HeliographConfig) -> None:
    """Refuse a space of which most draws could not be run: it would be searched in a corner."""
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    invalid = []
    for _ in range(SAMPLE):
        try:
            with_settings(config, space.draw(study.ask()))
        except ConfigError as error:
            invalid.append(error)
    if 2 * len(invalid) > SAMPLE:
        raise ConfigError(
            f"{len(invalid)} of {SAMPLE} draws from this space are no valid configuration, such as "
            f"one with {str(invalid[0]).splitlines()[-1].strip()}; narrow the space, or draw "
            "settings that go together as one choice of mappings, such as models.item_lm: "
            "{type: choice, values: [{hidden_size: 64, heads: 2}, {hidden_size: 96, heads: 3}]}"
        )


def _is_alone(path: str, parameters: Mapping[str, Distribution]) -> bool:
    """Tell whether no other setting of the section is drawn, so that a value can be judged."""
    section = path.rpartition(".")[0]
    return all(other == path or not f"{other}.".startswith(f"{section}.") for other in parameters)


def _agrees(section: Mapping[str, Any], part: Any) -> bool:
    return isinstance(part, dict) and all(section.get(key) == value for key, value in part.items())
