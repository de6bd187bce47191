from __future__ import annotations

from pathlib import Path

import pytest

from workbench import demo
from workbench.forecast import Outline, Pace
from workbench.settings import Settings

SQUARE = Outline((410, 410), ((512, 512),), Settings())


@pytest.mark.parametrize(
    ("pixels_a_second", "sizes"), [(1e7, (384, 224)), (1.5e5, (256, 160)), (1e3, (192, 128))]
)
def test_all_of_it_is_as_large_as_takes_little_time(
    pixels_a_second: float, sizes: tuple[int, int]
) -> None:
    pace = Pace(((pixels_a_second, 1.0),))
    photograph, clip = demo._photograph_size(SQUARE, pace), demo._clip_size(SQUARE, pace)
    assert (photograph, clip) == sizes


def test_sizes_stay_so_that_what_was_stopped_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paces = iter([Pace(((1e7, 1.0),)), Pace(((1e3, 1.0),))])
    monkeypatch.setattr(demo, "_timed", lambda: (SQUARE, next(paces)))
    assert demo._sizes(tmp_path) == demo._sizes(tmp_path) == [384, 224]
    (tmp_path / "sizes.json").write_text("broken")
    assert demo._sizes(tmp_path) == [192, 128]
