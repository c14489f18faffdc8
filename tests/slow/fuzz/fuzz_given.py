"""For the fuzzer: what people give to a run beside images, and what finished runs hold.

edits.json; corrections (fuzz_corrections.py); names and words; frozen clusters; models of
`datus fit`; the list of `datus predict`; report.json. Each is read as the package reads it and then
used, so that what a reader let through is met by what comes after it.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fuzz_corrections import CORRECTIONS
from fuzz_seeds import Made, Reader

RUN = "DATUS_FUZZ_RUN"
"""Environment variable: the folder of a finished run, which fuzz.py makes once."""

# --- edits, names, words ------------------------------------------------------------------------

EDITS: tuple[dict[str, Any], ...] = (
    {"op": "merge", "clusters": [0, 1]},
    {"op": "split", "cluster": 2, "parts": 2},
    {"op": "rename", "cluster": 4, "name": "sky"},
    {"op": "drop", "cluster": 3},
)


def edits_reader(scratch: Path) -> Reader:
    """Parsed, and replayed on the same clusters and on others."""
    import numpy as np

    from datus.review import edits

    middle = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    table = {"format": "datus-edits", "version": 1}
    tables = [
        {**table, "clusters": edits.base_of(4, "sha256:0", middle), "edits": list(chosen)}
        for chosen in (EDITS, EDITS[:1], ())
    ]

    def read(data: bytes) -> None:
        found = edits.parse(data, "edits.json")
        for k, identity in ((4, "sha256:0"), (5, "")):
            clusters = np.random.default_rng(1).normal(size=(k, 3)).astype(np.float32)
            replay = edits.follow(found, clusters, identity)
            n_all = edits.n_labels(found, k)
            edits.names(replay, n_all)
            edits.gone(replay)
            splits = {
                place: np.zeros((one.parts, 3), np.float32)
                for place, one in enumerate(replay.edits)
                if one.op == "split"
            }
            arrays = edits.packed(replay, clusters, splits)
            labels = np.arange(k, dtype=np.int16)
            labels = edits.relabelled(arrays, labels, np.zeros((k, 3), np.float32))
            if labels.min() < -1 or labels.max() >= n_all:
                raise AssertionError(f"labels {labels} of {n_all}")
        json.dumps(edits.as_json(found.edits))

    seeds = tuple(json.dumps(one).encode() for one in tables)
    return Reader(read, seeds, is_text=True, is_json=True)


def names_reader(scratch: Path) -> Reader:
    from datus.formats.names import default_names, make_classes, read_names

    def read(data: bytes) -> None:
        (scratch / "names.toml").write_bytes(data)
        make_classes(read_names(scratch / "names.toml", default_names(4)))

    return Reader(read, (b'[names]\n0 = "road"\n3 = "sky"\n1 = "road"\n',), is_text=True)


def words_reader(scratch: Path) -> Reader:
    from datus.suggest.suggest_names import read_words

    def read(data: bytes) -> None:
        (scratch / "words.txt").write_bytes(data)
        read_words(scratch / "words.txt")

    seeds = "sky\nroad, street\n# no\nä tree\n".encode(), b"\xef\xbb\xbfa\r\nb"
    return Reader(read, seeds, is_text=True)


# --- finished runs ------------------------------------------------------------------------------


def _run_copy(scratch: Path) -> Path:
    return Path(shutil.copytree(os.environ[RUN], scratch / "run", symlinks=True))


def frozen_file_reader(scratch: Path) -> Reader:
    """What `datus freeze` wrote, its own hash put right; then used on new segments."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_tensors
    from safetensors.numpy import save as save_tensors

    from datus.review import frozen

    whole = frozen.load(os.environ[RUN], 3)
    file = scratch / "words.safetensors"
    frozen.save(whole, file, overwrite=True)
    size = max(whole.model.pca_axes.shape[-1], whole.model.centroids.shape[1])

    def mend(data: bytes) -> bytes:
        try:
            tensors = load_tensors(data)
            about = json.loads(tensors.pop("about").tobytes())
            about["sha256"] = frozen.arrays_id(tensors)
            text = np.frombuffer(json.dumps(about).encode(), np.uint8)
            return bytes(save_tensors({**tensors, "about": text}))
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return data

    def read(data: bytes) -> None:
        file.write_bytes(data)
        for k in frozen.known_k(str(file)):
            _use_clusters(frozen.load(str(file), k), whole, size)

    return Reader(read, (file.read_bytes(), *_other_tensors(file.read_bytes(), mend)), mend)


def _other_tensors(data: bytes, mend: Callable[[bytes], bytes]) -> Iterable[bytes]:
    """The same with one array of another shape, another type, or odd numbers."""
    import numpy as np
    from safetensors.numpy import load as load_tensors
    from safetensors.numpy import save as save_tensors

    for name, array in sorted(load_tensors(data).items()):
        if name == "about":
            continue
        tensors = load_tensors(data)
        others = [array[:0], array[..., None], array[None], array.ravel()[:1], array.astype("i1")]
        if array.dtype.kind == "f":
            others += [np.full_like(array, np.nan), np.full_like(array, np.inf), array.astype("f8")]
        for other in (*others, None):
            tensors[name] = np.ascontiguousarray(other) if other is not None else array
            if other is None:
                del tensors[name]
            yield mend(bytes(save_tensors(tensors)))


def _use_clusters(found: Any, whole: Any, size: int) -> None:
    """As the stages clusters, masks and report do."""
    import numpy as np

    from datus.method.clusters import assign, embedded_centroids, offsets
    from datus.review import frozen
    from datus.types import SegmentEmbeddings

    recipes = {stage: whole.recipes[stage] for stage in frozen.SEEN}
    frozen.check_same(found, recipes)
    vectors = np.random.default_rng(0).normal(size=(9, size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assign(found.model, SegmentEmbeddings(vectors, np.ones(9, bool)))
    offsets(found.model, vectors)
    embedded_centroids(found.model)
    frozen.arrays_id(found.clusters)
    found.clusters["images"][:0]


def report_reader(scratch: Path) -> Reader:
    """report.json of a finished run, its checksum put right: what opens a run reads it."""
    from datus.errors import DatusError
    from datus.finished_run import open_run, settings_of_run
    from datus.formats.names import matched_names
    from datus.inputs.find import sha256_of
    from datus.store.store import Store, sealed

    run_dir = _run_copy(scratch)
    (place,) = (run_dir / "report").iterdir()
    shard, file = place / "shard-all.json", place / "files" / "report.json"
    table, seed = json.loads(shard.read_bytes()), file.read_bytes()

    def read(data: bytes) -> None:
        file.write_bytes(data)
        table["files"]["report.json"] = [len(data), sha256_of(data)]
        shard.write_text(json.dumps(sealed(table)))
        run = open_run(Store(run_dir))
        settings_of_run(run)
        for k in run.ks:
            names = run.names(k)
            matched_names(run.report, run.row(k), names, "majority")

    if not seed:
        raise DatusError("no report")
    return Reader(read, (seed,), is_text=True, is_json=True)


def stage_reader(stage: str) -> Made:
    """The recipe of a stage of a run whose clusters are taken, its seal put right."""

    def make(scratch: Path) -> Reader:
        from datus.review import frozen
        from datus.store.store import sealed

        run_dir = _run_copy(scratch)
        (file,) = run_dir.glob(f"{stage}/*/stage.json")
        whole = frozen.load(str(run_dir), 3)
        size = max(whole.model.pca_axes.shape[-1], whole.model.centroids.shape[1])

        def mend(data: bytes) -> bytes:
            try:
                return json.dumps(sealed(json.loads(data))).encode()
            except (ValueError, TypeError, AttributeError, RecursionError):
                return data

        def read(data: bytes) -> None:
            file.write_bytes(mend(data))
            for k in frozen.known_k(str(run_dir)):
                _use_clusters(frozen.load(str(run_dir), k), whole, size)

        return Reader(read, (file.read_bytes(),), is_text=True, is_json=True)

    return make


def places_reader(scratch: Path) -> Reader:
    from datus.finished_run import PLACES, read_places
    from datus.store.store import Store

    (scratch / "run").mkdir()
    store = Store(scratch / "run")
    seed = json.dumps({"data.images": "images", "features.weights": "/x"}).encode()

    def read(data: bytes) -> None:
        (scratch / "run" / PLACES).write_bytes(data)
        read_places(store)

    return Reader(read, (seed,), is_text=True, is_json=True)


# --- models and what they made ------------------------------------------------------------------


def segmenter_reader(scratch: Path) -> Reader:
    """The JSON of a saved model whose tensors are as they were; loaded and used."""
    import numpy as np

    from datus.segmenter.files import cluster_classes
    from datus.segmenter.model import SegmenterSpec, build_segmenter, load_segmenter, save_segmenter
    from datus.segmenter.tiles import Prediction, predict_images

    place = scratch / "model"
    made = build_segmenter(SegmenterSpec(n_classes=3, image_px=32, head="linear"), 0)
    save_segmenter(made, place, cluster_classes(3), {"made_by": "fuzz"})
    file = scratch / "model.json"
    image = np.zeros((20, 30, 3), np.uint8)

    def read(data: bytes) -> None:
        file.write_bytes(data)
        predict_images(load_segmenter(place), [image], Prediction(threads=1, device="cpu"))

    return Reader(read, (file.read_bytes(),), is_text=True, is_json=True)


def predicted_reader(scratch: Path) -> Reader:
    """predict.jsonl: which masks are done."""
    from datus.segmenter.predict_folder import LIST, PredictionLog

    out = scratch / "out"
    out.mkdir()
    recipe = {"model": "x", "settings": {}}
    lines = [recipe, {"image": "a", "sha256": "00", "mask": 3}, {"image": "b", "failed": "empty"}]
    seed = "".join(json.dumps(one) + "\n" for one in lines).encode()

    def read(data: bytes) -> None:
        (out / LIST).write_bytes(data)
        done = PredictionLog({"mask": out}, recipe)
        done.begin({"a": scratch / "a.jpg", "b": scratch / "b.jpg"})
        done.has("a", "00")
        done.fail({"b": "empty"})

    return Reader(read, (seed, seed[:-4]), is_text=True)


GIVEN: dict[str, Made] = {
    "edits": edits_reader,
    "names": names_reader,
    "words": words_reader,
    **CORRECTIONS,
    "frozen-file": frozen_file_reader,
    "frozen-clusters": stage_reader("clusters"),
    "frozen-features": stage_reader("features"),
    "frozen-report": stage_reader("report"),
    "report.json": report_reader,
    "inputs.json": places_reader,
    "segmenter": segmenter_reader,
    "predict.jsonl": predicted_reader,
}
