"""A disk that is too small, found before the work; and a look that goes wrong leaves nothing."""

import re
import tempfile
from pathlib import Path

import pytest
from bad_files import FAST, datus, encoded, mount, put, remount, run, scene, unmount
from tiny_runs import SHIPPED_OPTIONS

pytestmark = pytest.mark.usefixtures("one_backbone")


def test_a_small_disk_is_refused_before_the_first_shard(tmp_path: Path) -> None:
    """24 images need 1.2 MB for features and graphs."""
    images = put(tmp_path / "images", {f"{i}.png": encoded(scene(seed=i)) for i in range(24)})
    reason = mount(tmp_path / "disk", "1m")
    if reason:
        pytest.skip(f"no disk can be mounted here: {reason}")
    try:
        run_dir = tmp_path / "disk" / "run"
        given = ["run", "--images", images, *FAST, *SHIPPED_OPTIONS, "--run-dir", run_dir]
        looked = datus(*given, "--dry-run")
        assert looked.exit_code == 1
        assert not run_dir.exists()
        stopped = run(images, run_dir, *SHIPPED_OPTIONS)
        assert stopped.exit_code == 1
        for answer, megabytes in ((looked, 2), (stopped, 1)):  # a forecast, and a floor
            assert re.fullmatch(
                rf"{run_dir}: the run will write {megabytes}\.\d MB or more, [\d.]+ [KM]B are "
                "free: free some space, choose another --run-dir or add --set features.keep=false",
                answer.error,
            ), answer.error
        assert [path.name for path in run_dir.iterdir() if path.is_dir()] == ["index"]
        remount(tmp_path / "disk", "size=64m")
        assert datus(*given, "--dry-run").exit_code == 0
        assert run(images, run_dir, *SHIPPED_OPTIONS).exit_code == 0
        assert "everything is done" in datus(*given, "--dry-run").stdout
    finally:
        unmount(tmp_path / "disk")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_look_that_is_broken_off_leaves_nothing_behind(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise error

    images = put(tmp_path / "images", {f"{i}.png": encoded(scene(seed=i)) for i in range(2)})
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("datus.method.affinity.affinity_graph", broken)
    given = ["run", "--images", images, *FAST, "--run-dir", tmp_path / "run", "--dry-run"]
    if error is KeyboardInterrupt:
        assert datus(*given).exit_code == 130
    else:
        with pytest.raises(error):
            datus(*given)
    left = {path.name for path in (tmp_path / "temporary").iterdir()}
    assert not {name for name in left if not name.startswith("torchinductor")}  # torch's, for good
    assert not (tmp_path / "run").exists()
