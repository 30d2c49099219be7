"""The check of a GPU runs here on the CPU, where it agrees with itself."""

import json

from .running import app


def test_the_check_tries_itself_on_the_cpu(tmp_path):
    out = tmp_path / "check"
    app("gpu_check", "--tiny", "--device", "cpu", "--out", out, cwd=tmp_path)
    found = json.loads((out / "gpu_check.json").read_text())["sections"]
    assert list(found) == ["machine", "agreement", "throughput", "waits", "layouts", "apps"]
    assert not [row for rows in found.values() for row in rows if "failed" in row or "left out" in row]
    agreement = [row for row in found["agreement"] if "agrees" in row]
    assert len(agreement) == 9
    assert all(row["agrees"] and row["difference"] == 0 for row in agreement)
    assert all(row["TFLOP a second"] > 0 for row in found["throughput"][:-1])
    assert {row["better"] for row in found["layouts"][:-1]} <= {"channels_last", "contiguous"}
    assert [row["status"] for row in found["apps"] if "status" in row] == ["done"]
    assert "## agreement" in (out / "gpu_check.md").read_text()


def test_an_unknown_section_is_refused(tmp_path):
    done = app("gpu_check", "--tiny", "--only", "speed", "--out", tmp_path / "check", cwd=tmp_path, status=2)
    assert "machine, agreement, throughput, waits, layouts, apps" in done.stderr
