"""``lcm-nb check``: a line each, what is wrong with its remedy, and an exit code."""

import json
import sys
from types import SimpleNamespace

import psutil

from lcm_nb import check, cli

WITHOUT = """
import sys
sys.modules["lcm_nb"] = None  # as in a Python that has no lcm_nb
from ipykernel.kernelapp import launch_new_instance
launch_new_instance(argv=["-f", {file!r}])
"""


def run(capsys, *names: str, monkeypatch) -> tuple[int, list[str]]:
    """Run some of the checks, and return the exit code and the lines."""
    monkeypatch.setattr(check, "CHECKS", {name: check.CHECKS[name] for name in names})
    code = cli.main(["check"])
    return code, capsys.readouterr().out.splitlines()


def test_a_computer_that_draws_is_ready(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(check.webbrowser, "get", lambda: SimpleNamespace(name="firefox"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=4e9, total=8e9))
    monkeypatch.chdir(tmp_path)
    code, lines = run(capsys, *check.CHECKS, monkeypatch=monkeypatch)
    assert [line.split()[:2] for line in lines[:-1]] == [[name, "ok"] for name in check.CHECKS], lines
    assert lines[-1].startswith("Ready, in ")
    assert code == 0
    assert "fox" in lines[3] and "same picture" in lines[4] and "firefox" in lines[6]
    assert list(tmp_path.iterdir()) == []


def test_what_is_short_is_said_with_the_remedy(capsys, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5e8, total=4e9))
    monkeypatch.setattr(check.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e6))
    code, (memory, disk, last) = run(capsys, "memory", "disk", monkeypatch=monkeypatch)
    assert code == 1
    assert memory.startswith("memory   problem  0.5 GB free of 4.0 GB; ") and "close other programs" in memory
    assert disk.startswith("disk     problem  1 MB free in ") and "choose another disk" in disk
    assert last.startswith("Not ready: 2 of 2 checks failed")


def test_a_containers_limit_counts(capsys, monkeypatch, tmp_path):
    (tmp_path / "max").write_text("2000000000\n")
    (tmp_path / "used").write_text("1500000000\n")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=9e9, total=16e9))
    monkeypatch.setattr(check, "LIMITS", ((str(tmp_path / "max"), str(tmp_path / "used")),))
    assert "0.5 GB free of 2.0 GB" in run(capsys, "memory", monkeypatch=monkeypatch)[1][0]
    (tmp_path / "max").write_text("max\n")
    assert "9.0 GB free of 16.0 GB" in run(capsys, "memory", monkeypatch=monkeypatch)[1][0]


def test_a_kernel_of_another_python_is_found_out(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "kernels/python3"
    folder.mkdir(parents=True)
    spec = dict(argv=[sys.executable, "-c", WITHOUT.format(file="{connection_file}")], display_name="Python 3")
    spec["argv"][2] = spec["argv"][2].replace("'{connection_file}'", "sys.argv[1]")
    spec["argv"].append("{connection_file}")
    (folder / "kernel.json").write_text(json.dumps(spec | dict(language="python")))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    code, (line, _) = run(capsys, "kernel", monkeypatch=monkeypatch)
    assert code == 1
    assert line.startswith(f"kernel   problem  the kernel runs {sys.executable} and fails with ModuleNotFoundError: ")


def test_a_kernel_that_does_not_start_is_told_in_a_line(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "kernels/python3"
    folder.mkdir(parents=True)
    spec = dict(argv=[str(tmp_path / "gone"), "{connection_file}"], display_name="Python 3", language="python")
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    code, (line, _) = run(capsys, "kernel", monkeypatch=monkeypatch)
    assert code == 1
    assert line.startswith("kernel   problem  no Jupyter kernel starts (") and "ipykernel install" in line


def test_no_browser_is_a_problem_but_on_a_hub(capsys, monkeypatch):
    for name in check.SOMEWHERE_ELSE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(check.webbrowser, "get", lambda: (_ for _ in ()).throw(check.webbrowser.Error))
    monkeypatch.setattr(check.shutil, "which", lambda _: None)
    code, (line, _) = run(capsys, "browser", monkeypatch=monkeypatch)
    assert code == 1 and line.startswith("browser  problem  none found; install Firefox or Chrome")
    monkeypatch.setattr(check.shutil, "which", lambda name: name if name == "chromium" else None)
    assert "chromium; there is no display here" in run(capsys, "browser", monkeypatch=monkeypatch)[1][0]
    monkeypatch.setenv("JUPYTERHUB_USER", "ada")
    assert "yours, at the other end" in run(capsys, "browser", monkeypatch=monkeypatch)[1][0]


def test_what_nobody_foresaw_is_a_line_too(capsys, monkeypatch):
    monkeypatch.setitem(check.CHECKS, "drawing", lambda: (_ for _ in ()).throw(ImportError("no\ntorch")))
    code, (line, _) = run(capsys, "drawing", monkeypatch=monkeypatch)
    assert code == 1
    assert line == (
        "drawing  problem  ImportError: no torch; install again as the README says, or report this with `lcm-nb info`."
    )


def test_a_damaged_family_is_named(capsys, monkeypatch):
    from lcm_nb.models import hashes

    def damaged():
        raise OSError("lcm/config.json of the small models is damaged; install lcm_nb again.")

    monkeypatch.setattr(hashes, "check_family", damaged)
    code, (line, _) = run(capsys, "models", monkeypatch=monkeypatch)
    assert (code, line) == (
        1,
        "models   problem  lcm/config.json of the small models is damaged; install lcm_nb again.",
    )
