"""House rules for the repository's own files."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "psync").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
LONGEST = 450

# Written apart, so that this file does not break its own rule.
REGISTRIES = ["py" + "pi.org", "pythonhosted" + ".org", "npm" + "js.org", "npm" + "js.com"]
MACHINE_PATH = re.compile(r"(?<![\w.}>$~-])/(?:root|work)/\w")


def tracked() -> list[Path]:
    # Whoever tests may be another user than the one who cloned; git asks for a word about that.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=60)
    paths = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


def faults(text: str) -> list[str]:
    """Return what in ``text`` belongs to one machine or one registry."""
    return [name for name in REGISTRIES if name in text.lower()] + MACHINE_PATH.findall(text)


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    files = tracked()
    assert ROOT / "pyproject.toml" in files
    bad = {}
    for path in files:
        found = faults(path.read_bytes().decode(errors="replace"))
        if found:
            bad[str(path.relative_to(ROOT))] = found
    assert bad == {}


@pytest.mark.parametrize("text", ["see https://" + REGISTRIES[0] + "/x", "cd /wo" + "rk/main"])
def test_the_rule_catches(text: str) -> None:
    assert faults(text)


def test_every_module_says_what_it_is_for() -> None:
    silent = [path for path in SOURCES if not ast.get_docstring(ast.parse(path.read_bytes()))]
    assert silent == []


def test_no_module_is_too_long() -> None:
    lengths = {path: len(path.read_bytes().splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > LONGEST} == {}


# Tests of the whole, or of what is no module of the package.
NO_TWIN = {"integration", "faults", "attacks", "support", "scripts", "bench", "examples"}
NO_TWIN_HERE = {"test_init.py", "test_house.py", "test_layers.py"}


def has_twin(test: Path) -> bool:
    """Whether tests/sync/test_rsync_errors.py has a src/psync/sync/rsync_errors.py or rsync.py."""
    folder = ROOT / "src" / "psync" / test.parent.relative_to(ROOT / "tests")
    words = test.stem.split("_")[1:]
    names = ["_".join(words[: length + 1]) for length in range(len(words))]
    return any((folder / f"{name}.py").is_file() or (folder / name).is_dir() for name in names)


def test_every_test_has_its_twin_in_the_sources() -> None:
    lonely = []
    for test in TESTS:
        place = test.relative_to(ROOT / "tests")
        exempt = place.parts[0] in (NO_TWIN if len(place.parts) > 1 else NO_TWIN_HERE)
        if not exempt and not has_twin(test):
            lonely.append(str(place))
    assert lonely == []


def test_a_test_without_a_twin_is_found() -> None:
    assert has_twin(ROOT / "tests" / "config" / "test_values.py")
    assert has_twin(ROOT / "tests" / "config" / "test_values_more.py")
    assert not has_twin(ROOT / "tests" / "config" / "test_nothing.py")


@pytest.mark.parametrize("name", ["run", "dev"])
def test_the_locks_pin_everything_with_hashes_and_name_no_index(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.sub(r"#.*", "", text).replace("\\\n", " ").split("\n")
    pinned = set()
    for entry in filter(str.strip, entries):
        requirement, *hashes = entry.split()
        package, _, version = requirement.partition("==")
        assert version, entry
        assert hashes, entry
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", item) for item in hashes), entry
        pinned.add(package)
    assert not re.search(r"^\s*-(?!-hash)|://|find-links|index", text, re.MULTILINE)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + (
        project["optional-dependencies"]["dev"] if name == "dev" else []
    )
    assert {re.split(r"[^\w-]", requirement)[0] for requirement in wanted} <= pinned


@pytest.mark.parametrize(
    "script", ["setup", "lock", "setup-tests", "install-system-packages", "../.ci/run"]
)
def test_the_scripts_are_sound(script: str) -> None:
    path = ROOT / "scripts" / script
    assert os.access(path, os.X_OK)
    subprocess.run(["sh", "-n", str(path)], check=True, timeout=60)
