"""Chunks of a local zarr array decoded without zarr's machinery, which takes longer than the decoding itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import zarr

ChunkDecoder = Callable[[tuple[int, ...]], np.ndarray]


def chunk_decoder(array: zarr.Array, channel_axis: int) -> ChunkDecoder | None:
    """A function from chunk indices to the whole chunk, or None where only zarr itself can read the array.

    It serves what `hd.io.write` writes: format 3 on a local disk, not sharded, plain bytes compressed by Zstandard, Blosc
    or nothing, all channels in one chunk. Threads may call it at once; the decompressors release the interpreter's lock.
    """
    import numcodecs
    from zarr.storage import LocalStore

    about = array.metadata.to_dict()
    if about.get("zarr_format") != 3 or not isinstance(array.store, LocalStore):
        return None
    codecs = [codec["name"] for codec in about["codecs"]]
    known = {"zstd": numcodecs.Zstd, "blosc": numcodecs.Blosc}
    if codecs[:1] != ["bytes"] or len(codecs) > 2 or (len(codecs) == 2 and codecs[1] not in known):
        return None
    if array.dtype != np.uint8 or array.chunks[channel_axis] < array.shape[channel_axis]:
        return None
    codec = known[codecs[1]]() if len(codecs) == 2 else None
    folder = Path(array.store.root) / array.path
    key, chunks, fill = array.metadata.encode_chunk_key, tuple(array.chunks), array.fill_value

    def decode(at: tuple[int, ...]) -> np.ndarray:
        try:
            stored = (folder / key(at)).read_bytes()
        except FileNotFoundError:
            # zarr leaves out chunks that hold nothing but the fill value
            return np.full(chunks, fill, np.uint8)
        return np.frombuffer(stored if codec is None else codec.decode(stored), np.uint8).reshape(chunks)

    return decode
