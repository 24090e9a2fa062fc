import json
import subprocess
import sys

from meowtea.report.summary import read_json_lines, result_rows, write_summary


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def evaluation(kind, step, success, label="after SFT"):
    return {
        "kind": kind,
        "step": step,
        "label": label,
        "episodes": 100,
        "split": "test",
        "success": success,
        "low": max(0.0, success - 0.1),
        "high": min(1.0, success + 0.1),
        "score": success,
        "turns": 6.2,
        "invalid_share": 0.25,
        "minutes": 4.5,
    }


def test_the_table_tells_test_panels_and_the_picture_is_drawn(tmp_path):
    write_lines(tmp_path / "evaluations.jsonl", [evaluation("validation", 3, 0.4), evaluation("test", 5, 0.56)])
    write_lines(
        tmp_path / "metrics.jsonl",
        [{"step": 1, "stage": "sft"}, {"step": 6, "stage": "rl", "rollout/success": 0.6}],
    )
    table = write_summary(tmp_path, "a run")
    assert table.splitlines()[2] == "| after SFT | 100 test | 56% | 46% to 66% | 0.56 | 6.2 | 25% | 4.5 |"
    assert len(result_rows(tmp_path)) == 1
    assert (tmp_path / "learning.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "learning.svg").read_text()
    assert not list(tmp_path.glob(".learning*"))


def test_rates_at_the_ends_are_drawn_in_spite_of_rounding(tmp_path):
    rounded = {**evaluation("test", 5, 0.0), "low": 1e-17}
    write_lines(tmp_path / "evaluations.jsonl", [rounded, {**evaluation("test", 6, 1.0), "high": 1 - 1e-16}])
    write_summary(tmp_path, "a run")
    assert (tmp_path / "learning.png").exists()


def test_a_line_cut_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]


def test_reports_need_no_torch():
    code = "import sys, meowtea.report.summary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
