"""The vectors that k-means learns from: of all valid segments, or of an even sample of them.

    sample_vectors(data, n_all, limit, seed, advance)      float32 (n, E), and their images

One shard is in memory at a time; what stays is `limit` vectors, however many there are.
"""

from collections.abc import Iterable
from zlib import crc32

import numpy as np

from datus.executors import Advance
from datus.index import Shard
from datus.records import Array, ImageRecord, ShardData


def sample_vectors(
    data: Iterable[tuple[Shard, ShardData]], n_all: int, limit: int, seed: int, advance: Advance
) -> tuple[Array, list[ImageRecord]]:
    """(float32 (n, E) unit rows in the order of the images, the images that have a row or none).

    data: what the embeddings stage stored, shard by shard; n_all: its valid segments. Up to `limit`
    of them all are taken. Of more, each is taken with the same chance, so that about `limit` are;
    the draw of an image depends on the seed and its id alone, not on the other images.
    """
    parts, records = [], []
    share = min(1.0, limit / max(1, n_all))
    for shard, stored in data:
        for record in shard.records:
            if record.image_id in stored.arrays:
                arrays = stored.arrays[record.image_id]
                rows = arrays["vectors"][arrays["valid"]]
                if share < 1:
                    rng = np.random.default_rng([seed, crc32(record.image_id.encode())])
                    rows = rows[rng.random(len(rows)) < share]
                parts.append(rows)
                records.append(record)
        advance(len(shard.records))
    return (np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)), records
