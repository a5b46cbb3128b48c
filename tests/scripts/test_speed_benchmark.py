"""What the benchmark makes of its timings."""

from scripts.benchmark_parts import A0_CLIP_GFLOP, floor
from scripts.timing import CALLS, SETTLED_MS, TFLITE, measure, summarise, table


class Clock:
    """Seconds that pass only when a contender works."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_contenders_alternate_and_warm_up_calls_are_not_timed() -> None:
    clock, calls = Clock(), []

    def contender(name: str, seconds: float) -> None:
        calls.append(name)
        clock.now += seconds

    works = {"quick": lambda: contender("quick", 0.016), "slow": lambda: contender("slow", 3.0)}
    times = measure(works, 2, clock)
    settling = SETTLED_MS // 16 + 1
    turn = ["quick"] * (settling + CALLS) + ["slow"]
    assert calls == ["quick", "quick", "slow", "slow", *turn, *turn]
    assert [round(ms) for ms in times["quick"]] == [16] * 2 * CALLS
    assert [round(ms) for ms in times["slow"]] == [3000, 3000]


def test_ratios_are_relative_to_tflite() -> None:
    rows = summarise("a0, a frame", 1, {"fused": [6.0] * 4, TFLITE: [2.0] * 4})
    assert [row["ratio"] for row in rows] == [3.0, 1.0]
    assert "3.00" in table(rows).splitlines()[1]


def test_int8_has_a_ratio_to_float32_in_the_same_runtime() -> None:
    times = {"onnx": [6.0] * 4, "onnx, int8": [3.0] * 4, "openvino": [1.0] * 4, TFLITE: [2.0] * 4}
    rows = summarise("a0, a frame", 1, times)
    assert [row["to float32"] for row in rows] == [None, 0.5, None, None]
    assert "0.50 of float32" in table(rows).splitlines()[2]


def test_the_lower_bound_is_the_time_at_the_rate_of_matrix_products() -> None:
    forms = summarise(
        "a0-base, a clip", 1, {"fused": [90.0] * 4, "official tf.function": [9.0] * 4}
    )
    lowest, best = floor(forms, 1, iter(range(1000)).__next__)
    seconds_a_product = 1
    gflops = 2 * 2048**3 / 1e9 / seconds_a_product
    assert abs(lowest["ms"] - A0_CLIP_GFLOP / gflops * 1e3) < 1e-6
    assert best["form"] == "fused"
    assert abs(best["ratio"] - 90.0 / lowest["ms"]) < 1e-9
