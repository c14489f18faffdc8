"""Memory of the clusters stage on made vectors: from disk, shard by shard.

    python benchmarks/bench_kmeans.py --vectors 10000000 --dims 384 --clusters 27 --sample 1000000

Shards of 20,000 float32 unit vectors around `--groups` directions are made on the fly (their own
memory is that of one shard), sampled as the stage does, and clustered with its defaults. Prints
seconds and the peak memory of the process.
"""

import argparse
import resource
import time
from collections.abc import Iterator

import numpy as np

from datus.compute.threads import n_cores
from datus.config import ClustersConfig
from datus.inputs.index import Shard
from datus.method.clusters import assign, fit_clusters
from datus.stages.sample import sample_vectors
from datus.types import ImageRecord, SegmentEmbeddings, ShardData

SHARD = 20_000
"""Vectors of a shard, more than 32 images with many segments have."""


def shards(n_vectors: int, dims: int, n_groups: int) -> Iterator[tuple[Shard, ShardData]]:
    centres = np.random.default_rng(0).normal(size=(n_groups, dims)).astype(np.float32)
    for number in range(-(-n_vectors // SHARD)):
        rng = np.random.default_rng([1, number])
        n_rows = min(SHARD, n_vectors - number * SHARD)
        rows = centres[rng.integers(0, n_groups, n_rows)]
        rows += rng.standard_normal((n_rows, dims), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        name = f"image{number}"
        record = ImageRecord(name, f"{name}.png", 8, 8, "0" * 64, name, None, None)
        arrays = {name: {"vectors": rows, "valid": np.ones(n_rows, bool)}}
        yield Shard(name, (record,)), ShardData(arrays=arrays)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vectors", type=int, default=10_000_000)
    parser.add_argument("--dims", type=int, default=384)
    parser.add_argument("--groups", type=int, default=40)
    parser.add_argument("--clusters", type=int, default=27)
    parser.add_argument("--sample", type=int, default=ClustersConfig().sample)
    args = parser.parse_args()
    started = time.perf_counter()
    made = shards(args.vectors, args.dims, args.groups)
    vectors, _ = sample_vectors(made, args.vectors, args.sample, 0, lambda n: None)
    print(f"{args.vectors} vectors, {len(vectors)} taken: {time.perf_counter() - started:.0f} s")
    print(f"peak memory {peak_mib():.0f} MiB, the sample {vectors.nbytes / 2**20:.0f} MiB")
    started = time.perf_counter()
    model = fit_clusters(vectors, args.clusters, ClustersConfig(), 0, n_threads=n_cores())
    print(f"k-means: {time.perf_counter() - started:.0f} s, peak memory {peak_mib():.0f} MiB")
    del vectors
    started, n_rows = time.perf_counter(), 0
    for _, data in shards(min(args.vectors, 10 * SHARD), args.dims, args.groups):
        for arrays in data.arrays.values():
            assign(model, SegmentEmbeddings(arrays["vectors"], arrays["valid"]))
            n_rows += len(arrays["valid"])
    each = (time.perf_counter() - started) / n_rows
    print(f"assigned in a stream: {1e6 * each:.1f} us a vector, peak memory {peak_mib():.0f} MiB")


if __name__ == "__main__":
    main()
