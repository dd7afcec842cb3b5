"""The cache of compiled programs: found again, bounded, mended, and never in the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssmlin import _compilation_cache as cache
from ssmlin.cli._app import app

runner = CliRunner()

# A program of some size, and one that calls LAPACK; prints what it computed, where the cache is,
# and how many programs came from it.
PROGRAM = """
import collections, json, os, sys
import jax, jax.numpy as jnp
import ssmlin
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event]))
jax.config.update("jax_enable_x64", True)
before = dict(jax.config.values)
folder = {enable}
def step(x, a):
    x = jnp.linalg.cholesky(x @ x.T + jnp.eye(4)) * a
    return x, jnp.linalg.eigh(x + x.T)[0].sum()
found = jax.jit(lambda x: jax.lax.scan(step, x, jnp.arange(1.0, 6.0))[1])(jnp.eye(4))
hits = counts["/jax/compilation_cache/cache_hits"]
misses = counts["/jax/compilation_cache/cache_misses"]
same = before == dict(jax.config.values)
print(json.dumps([found.tolist(), str(folder), hits, misses, same]))
"""


def run(home: Path, enable: str = "ssmlin.enable_compilation_cache()", **variables: str) -> list:
    """What the program prints in a new process with this home; it says nothing else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    kept |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{enable}", enable)],
        env=kept | variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return json.loads(done.stdout)


def programs(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("jit_*.program"))


def test_another_process_finds_the_programs(tmp_path):
    first, folder, hits, misses, _ = run(tmp_path)
    assert Path(folder).is_relative_to(tmp_path) and "jaxlib-" in folder
    assert hits == 0 and misses == len(programs(folder)) > 1
    assert set(Path(folder).iterdir()) == set(programs(folder))  # nothing else is left behind
    again, _, hits, misses_then, _ = run(tmp_path)
    assert (hits, misses_then) == (misses, 0)
    assert again == first


def test_importing_changes_nothing(tmp_path):
    _, _, hits, misses, same = run(tmp_path, "None")
    assert same and hits == misses == 0
    assert not (tmp_path / "cache").exists()


def damaged(data: bytes) -> list[bytes]:
    """Ways to damage a file: cut, emptied, bits flipped at several places."""
    flipped = []
    for place in (0, 40, len(data) // 3, len(data) // 2, len(data) - 1):
        one = bytearray(data)
        one[place] ^= 0x10
        flipped.append(bytes(one))
    return [b"", data[:20], data[: len(data) // 2], *flipped, bytes(len(data))]


def test_damaged_programs_are_compiled_anew(tmp_path):
    first, folder, _, misses, _ = run(tmp_path)
    for number, path in enumerate(programs(folder)):
        kinds = damaged(path.read_bytes())
        path.write_bytes(kinds[number % len(kinds)])
    found, _, hits, missed, _ = run(tmp_path)
    assert found == first and (hits, missed) == (0, misses)
    assert run(tmp_path)[2:4] == [misses, 0]  # they are mended


def test_all_damage_is_seen(tmp_path):
    path = tmp_path / "x.program"
    cache._write(path, bytes(range(200)))
    assert cache._read(path) == bytes(range(200))
    for data in damaged(path.read_bytes()):
        path.write_bytes(data)
        assert cache._read(path) is None and not path.exists()


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "cache").write_text("a file")
    found, folder, hits, misses, _ = run(tmp_path)
    assert len(found) == 5 and folder == "None" and hits == misses == 0


def test_the_cache_that_jax_was_told_wins(tmp_path):
    given = tmp_path / "given"
    _, folder, *_, same = run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(given))
    assert folder == str(given) and same
    own = f'(jax.config.update("jax_compilation_cache_dir", {str(given)!r}), ssmlin.enable_compilation_cache())[1]'  # noqa: E501
    assert run(tmp_path, own)[1] == str(given)
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_is_switched_off_stays_off(tmp_path):
    _, folder, hits, misses, _ = run(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    assert folder == "None" and hits == misses == 0


def test_a_folder_of_ones_own(tmp_path):
    enable = f"ssmlin.enable_compilation_cache({str(tmp_path / 'mine')!r})"
    assert run(tmp_path, enable)[1] == str(tmp_path / "mine")
    assert run(tmp_path, f"({enable}, ssmlin.enable_compilation_cache())[1]")[1] != str(
        tmp_path / "mine"
    )


def test_a_folder_that_goes_away_is_no_error(tmp_path):
    enable = "__import__('shutil').rmtree(ssmlin.enable_compilation_cache())"
    assert len(run(tmp_path, enable)[0]) == 5


def test_other_processes_take_it_over(tmp_path):
    enable = """(ssmlin.enable_compilation_cache(),
        __import__("multiprocessing").get_context("spawn").Pool(
            1, __import__("ssmlin._compilation_cache", fromlist="x").for_other_processes()
        ).apply(eval, ("__import__('jax').numpy.arange(3.0).sum().item()",)))"""
    folder = Path(eval(run(tmp_path, enable)[1].replace("PosixPath", "str"))[0])
    assert [path for path in programs(str(folder)) if "sum" in path.name]


def test_the_files_used_last_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MAX_BYTES", 250)
    for number in range(5):
        path = tmp_path / "version" / f"{number}.program"
        path.parent.mkdir(exist_ok=True)
        cache._write(path, bytes(68))  # and 32 of the checksum
        os.utime(path, (number, number))
    (tmp_path / "of somebody").write_bytes(bytes(1000))
    os.utime(tmp_path / "of somebody", (0, 0))
    assert cache._read(tmp_path / "version" / "1.program") == bytes(68)
    cache._remove_oldest(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*.program")) == ["1.program", "4.program"]
    assert (tmp_path / "of somebody").exists()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_the_command_tells_and_clears(home):
    folder = cache.user_folder()
    assert runner.invoke(app, ["cache", "--path"]).output == f"{folder}\n"
    assert json.loads(runner.invoke(app, ["cache", "--json"]).output) == {
        "path": str(folder), "programs": 0, "megabytes": 0.0,
    }  # fmt: skip
    for parent in (folder, folder.parent / "of-another-version"):
        parent.mkdir(parents=True)
        cache._write(parent / "x.program", bytes(10**6 - 32))
    told = runner.invoke(app, ["cache"]).output
    assert str(folder) in told and "2 programs, 2.0 MB" in told
    result = runner.invoke(app, ["cache", "--clear"])
    assert result.exit_code == 0 and "removed 2 programs, 2.0 MB" in result.output
    assert cache.contents().entries == 0
    assert json.loads(runner.invoke(app, ["cache", "--clear", "--json"]).output)["programs"] == 0


def test_the_command_keeps_a_folder_that_jax_was_told(home, monkeypatch):
    given = home / "given"
    given.mkdir()
    (given / "kept").write_bytes(b"1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(given))
    assert runner.invoke(app, ["cache", "--path"]).output == f"{given}\n"
    result = runner.invoke(app, ["cache", "--clear"])
    assert result.exit_code == 2 and "JAX_COMPILATION_CACHE_DIR" in result.output
    assert (given / "kept").exists()
