"""Chooses the next token of one answer from the model's scores."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from sibyl.engines import llama_binding as llama
from sibyl.engines.llama_context import Context
from sibyl.engines.sampling import Sampling, draw_seed

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Sampler:
    """Chooses tokens by one set of sampling parameters. Used by one thread; close it."""

    def __init__(self, sampling: Sampling) -> None:
        self._greedy = sampling.temperature == 0
        self._seed = sampling.seed
        self._candidates = sampling.top_k
        self._sample = llama.sample if sampling.top_k else llama.sample_slowly
        self._chain = None
        if self._greedy:
            return
        self._chain = llama.chain_new(llama.native.llama_sampler_chain_default_params())
        # top_k first: what follows sorts, and sorting a whole vocabulary takes milliseconds
        llama.chain_add(self._chain, llama.top_k(sampling.top_k))
        llama.chain_add(self._chain, llama.top_p(sampling.top_p, 1))
        llama.chain_add(self._chain, llama.min_p(sampling.min_p, 1))
        llama.chain_add(self._chain, llama.temperature(sampling.temperature))
        llama.chain_add(self._chain, llama.draw(0))

    @property
    def candidates(self) -> int:
        """How many of the likeliest tokens it takes at most; 0: all."""
        return 1 if self._greedy else self._candidates

    def choose(self, context: Context, row: int, position: int) -> int:
        """Return token number ``position`` of the answer, by the scores of a row of the last batch.

        Raises:
            EngineError: as ``Context.likeliest``.
        """
        best = context.likeliest(row)  # also guards the sampler, for which sorting what is no number is undefined
        if self._greedy:
            return best
        self._draw_anew(position)
        return int(self._sample(self._chain, context.pointer, row))

    def choose_among(self, token_ids: NDArray[np.int32], scores: NDArray[np.float32], position: int) -> int:
        """Return one of these tokens, whose scores are given highest first, as token number ``position``."""
        if self._greedy:
            return int(token_ids[0])
        self._draw_anew(position)
        data = np.zeros(len(token_ids), _TOKEN_DATA)
        data["id"], data["logit"] = token_ids, scores
        start = ctypes.cast(data.ctypes.data, llama.native.llama_token_data_p)
        left = llama.native.llama_token_data_array(data=start, size=len(data), selected=-1, sorted=True)
        llama.sampler_apply(self._chain, ctypes.byref(left))
        return int(left.data[left.selected].id)

    def _draw_anew(self, position: int) -> None:
        llama.sampler_free(llama.chain_remove(self._chain, 4))
        llama.chain_add(self._chain, llama.draw(draw_seed(self._seed, position)))

    def close(self) -> None:
        """Free it. Twice is once."""
        chain, self._chain = self._chain, None
        if chain:
            llama.sampler_free(chain)
