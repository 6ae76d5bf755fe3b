"""Which heads there are, and where the bundle and MLflow have each."""

from __future__ import annotations

from phoebe_spark.predict.heads import HEADS, Head, heads_of


def test_each_head_has_one_name_and_one_file() -> None:
    assert [head.file for head in HEADS] == [
        "task_time/recurring.txt",
        "task_time/general.txt",
        "output_size/recurring.txt",
        "output_size/general.txt",
        "schedule/start_recurring.txt",
        "schedule/start_general.txt",
        "schedule/end_recurring.txt",
        "schedule/end_general.txt",
    ]
    assert heads_of("end") == (Head("end", "recurring"), Head("end", "general"))
    assert {head.name for head in HEADS if head.group == "schedule"} == {
        "start_recurring", "start_general", "end_recurring", "end_general",
    }  # fmt: skip
