"""Louvain on packed bits, compiled by numba.

In:  uint64 (N, words) adjacency bits as in AffinityGraph.
Out: int32 (N,) communities of the best of several node orders.

A community is a bit mask of N bits, like a row of the adjacency, so the links of a node to a
community are the set bits of (row & mask): at 784 patches 16 words, two AVX-512 registers. All
arithmetic is in 64-bit integers: results are exact, and the same on every machine and thread.

With k_i = links of node i, w = sum of k, moving node i into community c changes modularity (paper
III-C, eq. 2) by 2 / w^2 times the difference of its gains after and before,

    gain(i, c) = w links(i, c without i) - k_i (volume of c without i).

One run goes through these phases (Blondel et al. 2008, with refinement as in Rotta & Noack 2011):

    1  single nodes, each once in the given order, join the best community or the best single node
    2  every node moves to the best community, or to an empty one, until none gains
    3  the communities move as blocks, likewise, and so merge; from 2 again until none gains

Of several runs each is also perturbed once: half of the nodes go to other communities, and phases 2
and 3 start from there, which costs less than another run and finds more (docs/decisions.md 21).

Every move raises modularity, so it ends. Memory: N^2 / 8 bytes of masks at worst, far less in
dense graphs, and no matrix. The GIL is released. There is no global state.
"""

from typing import Any, NamedTuple

import numpy as np

from datus.compute.compiled import compiled, inlined, popcount
from datus.types import Array

Int64 = Any
"""An int64 of the machine code, which is neither int nor np.int64 to a type checker."""

WORDS_AT_ONCE = 8
"""Rows are padded to this many words, one AVX-512 register: no rest is left for slow code."""

WORDS_PER_NEIGHBOUR = 12
"""So many words of (row & mask) are taken to cost as much as one neighbour looked up. Measured with
AVX-512: 1.27 ns a neighbour, 0.075 ns a word, so 17; machines without it count words slower.
The choice is written out in every phase: as a function of its own it makes all of it half as fast.
"""

SPARSE = 8
"""A graph with less than one in so many pairs linked. Measured at 784 patches: 36 % less time where
one in 20 is linked, 14 % more where one in two is."""

MAX_PASSES = 1000
"""A symmetric graph never needs so many; one that is not might go round for ever."""


class Graph(NamedTuple):
    """A graph and what every gain needs."""

    rows: Array
    """uint64 (N, W): adjacency bits, W a multiple of WORDS_AT_ONCE."""
    degrees: Array
    """int64 (N,): set bits of each row; a self loop counts once."""
    by_degree: Array
    """int64 (N,): the nodes, those of least degree first."""
    total: Int64
    """w, the sum of the degrees: what one link adds to a gain."""


class Communities(NamedTuple):
    """A partition into slots."""

    labels: Array
    """int64 (N,): slot of each node, -1 for a single node in phase 1."""
    masks: Array
    """uint64 (slots, W): members as bits."""
    volumes: Array
    """int64 (slots,): sum of the members' degrees."""


@compiled
def best_partition(bits: Array, restarts: int, seed: int) -> tuple[Array, int, int, Array]:
    """Communities of the best of `restarts` runs; of equally good ones the first.

    Each of several runs is perturbed once, see above; a single one is not.

    bits: uint64 (N, words), N > 0; 2 w^2 must be below 2^63. seed: 0 to 2^63 - 1. The first run
    takes the nodes in raster order, run r > 0 in an order that depends on seed and r. Returns int32
    (N,) labels 0.. in order of first node, the number of links inside communities, the sum of their
    squared volumes, and int32 (T, N) the labels of each of the T partitions that it is the best of.
    """
    graph = _graph(bits)
    n_tries = 1 if restarts == 1 else 2
    best_labels = np.zeros(len(bits), np.int32)
    tried = np.empty((restarts * n_tries, len(bits)), np.int32)
    best_links = best_squares = best_score = 0
    for run in range(restarts):
        order = np.arange(len(bits))
        if run > 0:
            _shuffle(order, seed, run)
        labels = _first_level(graph, order)
        for again in range(n_tries):
            if again > 0:
                _shuffle(order, seed, restarts + run)
                labels = _perturbed(labels, order)
            communities = _improved(graph, _numbered(graph, labels), order)
            links, squares = _links_and_squares(graph, communities)
            score = graph.total * links - squares  # w^2 Q, exactly
            labels = communities.labels
            tried[n_tries * run + again] = labels
            if (run == 0 and again == 0) or score > best_score:
                best_links, best_squares, best_score = links, squares, score
                best_labels[:] = labels
    return best_labels, best_links, best_squares, tried


@compiled
def _improved(graph: Graph, communities: Communities, order: Array) -> Communities:
    """Phases 2 and 3, until none gains."""
    for _ in range(MAX_PASSES):
        _move_nodes(graph, communities, order)
        communities = _numbered(graph, communities.labels)
        if not _move_communities(graph, communities):
            break
        communities = _numbered(graph, communities.labels)
    return communities


@compiled
def _perturbed(labels: Array, order: Array) -> Array:
    """int64 (N,): the first half of `order` goes to other communities, 0.. as numbered."""
    perturbed, n_communities = labels.copy(), labels.max() + 1
    for place in range(len(order) // 2):
        step = 1 + order[len(order) - 1 - place] % max(1, n_communities - 1)
        perturbed[order[place]] = (labels[order[place]] + step) % n_communities
    return perturbed


@compiled
def _first_level(graph: Graph, order: Array) -> Array:
    """Phase 1: int64 (N,) slots, -1 where a node stayed single.

    Single nodes have no mask. Of all single neighbours that of the least degree gains most, so
    they are looked up in order of degree.
    """
    rows, degrees, by_degree, total = graph
    n_nodes, n_slots = len(order), 0
    # a turn opens one slot at most; half as many are not enough, since nodes leave slots, too
    labels, masks, volumes = _no_communities(n_nodes, n_nodes, rows.shape[1])
    all_links = np.zeros(len(volumes), np.int64)
    rank = np.empty(n_nodes, np.int64)
    rank[by_degree] = np.arange(n_nodes)
    next_single = np.arange(n_nodes + 1)  # by rank; joined nodes point on
    for node in order:
        own, degree = labels[node], degrees[node]
        links = all_links[:n_slots]
        if n_slots * rows.shape[1] > WORDS_PER_NEIGHBOUR * degree:
            _count_by_neighbour(rows, node, labels, links)
        else:
            _count_by_slot(rows, node, masks, volumes, links)
        own_gain = 0
        if own >= 0:
            own_links = links[own] - _linked(rows, node, node)
            own_gain = total * own_links - degree * (volumes[own] - degree)
        slot, gain = _best_slot(links, volumes, (own, own_gain), total, degree)
        single = _best_single(rows, node, by_degree, next_single)
        if single >= 0 and total - degree * degrees[single] > gain:
            slot = n_slots
            n_slots += 1
            _put(masks, labels, single, slot)
            volumes[slot] = degrees[single]
            next_single[rank[single]] = rank[single] + 1
        if slot != own:
            if own >= 0:
                volumes[own] -= degree
            volumes[slot] += degree
            _put(masks, labels, node, slot)
            next_single[rank[node]] = rank[node] + 1
    return labels


@compiled
def _best_single(rows: Array, node: int, by_degree: Array, next_single: Array) -> Int64:
    """The single neighbour of least degree, or -1."""
    place = 0
    while True:
        while next_single[place] != place:
            next_single[place] = next_single[next_single[place]]
            place = next_single[place]
        if place == len(by_degree):
            return -1
        if by_degree[place] != node and _linked(rows, node, by_degree[place]):
            return by_degree[place]
        place += 1


@compiled
def _move_nodes(graph: Graph, communities: Communities, order: Array) -> None:
    """Phase 2. Ends when as many nodes in a row as there are had no better place.

    In a sparse graph most nodes are not touched by a move: only the neighbours in other communities
    are looked at again (Traag et al. 2019), and all when nobody waits, as volumes have changed.
    """
    rows, degrees, _, total = graph
    labels, masks, volumes = communities
    links, n_slots = np.zeros(len(volumes), np.int64), len(volumes)
    sparse = SPARSE * degrees.sum() < len(order) ** 2
    waiting = np.full(rows.shape[1], ~np.uint64(0))
    unmoved = 0
    for _ in range(MAX_PASSES):
        waited = False
        for node in order:
            if unmoved == len(order):
                return
            if sparse and not _take(waiting, node):
                continue
            waited = True
            own, degree = labels[node], degrees[node]
            if n_slots * rows.shape[1] > WORDS_PER_NEIGHBOUR * degree:
                _count_by_neighbour(rows, node, labels, links)
            else:
                _count_by_slot(rows, node, masks, volumes, links)
            own_links = links[own] - _linked(rows, node, node)
            own_gain = total * own_links - degree * (volumes[own] - degree)
            slot, _ = _best_slot(links, volumes, (own, own_gain), total, degree)
            unmoved += 1
            if slot != own:
                volumes[own] -= degree
                volumes[slot] += degree
                _put(masks, labels, node, slot)
                unmoved = 1
                if sparse:
                    for word in range(len(waiting)):
                        waiting[word] |= rows[node, word] & ~masks[slot, word]
        if not waited:
            waiting[:] = ~np.uint64(0)
            unmoved = 0


@inlined
def _take(mask: Array, node: int) -> bool:
    """Whether the bit of `node` was set; it is not afterwards."""
    bit = np.uint64(1) << np.uint64(node & 63)
    before = mask[node >> 6]
    mask[node >> 6] = before & ~bit
    was_set: bool = (before & bit) != np.uint64(0)
    return was_set


@compiled
def _move_communities(graph: Graph, communities: Communities) -> bool:
    """Phase 3: communities move as blocks until none gains. False if none ever moved."""
    rows, degrees, _, total = graph
    labels, masks, volumes = communities
    blocks, block_volumes = masks.copy(), volumes.copy()
    links, of_node = np.zeros(len(volumes), np.int64), np.zeros(len(volumes), np.int64)
    unmoved, moved = 0, False
    for _ in range(MAX_PASSES):
        for block in range(len(blocks) - 1):  # the last one is empty
            if unmoved == len(blocks) - 1:
                return moved
            links[:] = 0
            members = _members(blocks, block)
            own = labels[members[0]]
            for node in members:
                if len(links) * rows.shape[1] > WORDS_PER_NEIGHBOUR * degrees[node]:
                    _count_by_neighbour(rows, node, labels, of_node)
                else:
                    _count_by_slot(rows, node, masks, volumes, of_node)
                links += of_node
                links[own] -= _shared(rows, node, blocks, block)
            volume = block_volumes[block]
            own_gain = total * links[own] - volume * (volumes[own] - volume)
            slot, _ = _best_slot(links, volumes, (own, own_gain), total, volume)
            unmoved += 1
            if slot != own:
                unmoved, moved = 1, True
                volumes[own] -= volume
                volumes[slot] += volume
                for node in members:
                    _put(masks, labels, node, slot)
    return moved


@inlined
def _best_slot(
    links: Array, volumes: Array, own: tuple[int, Int64], total: int, volume: Int64
) -> tuple[Int64, Int64]:
    """(slot, gain) of the greatest gain. `own`: the present slot and its gain, which wins ties.
    volume: k of what moves."""
    best, best_gain = own
    for slot in range(len(links)):
        gain = total * links[slot] - volume * volumes[slot]
        if gain > best_gain and slot != own[0]:
            best, best_gain = slot, gain
    return best, best_gain


@inlined
def _count_by_slot(rows: Array, node: int, masks: Array, volumes: Array, links: Array) -> None:
    """Set `links` to the links of `node` to the members of each slot, itself included."""
    for slot in range(len(links)):
        links[slot] = _shared(rows, node, masks, slot) if volumes[slot] > 0 else 0


@compiled
def _count_by_neighbour(rows: Array, node: int, labels: Array, links: Array) -> None:
    """The same, faster where communities are many and neighbours few."""
    links[:] = 0
    for neighbour in _members(rows, node):
        if labels[neighbour] >= 0:
            links[labels[neighbour]] += 1


@inlined
def _shared(rows: Array, node: int, masks: Array, slot: int) -> Int64:
    """Bits set in both. Takes indices because a view of a row costs more than the counting."""
    count = np.uint64(0)
    for word in range(rows.shape[1]):
        count += popcount(rows[node, word] & masks[slot, word])
    return np.int64(count)


@compiled
def _members(masks: Array, slot: int) -> Array:
    """int64: the set bits of a mask, ascending."""
    members = np.empty(_shared(masks, slot, masks, slot), np.int64)
    n_found = 0
    for place in range(masks.shape[1]):
        word = masks[slot, place]
        while word != np.uint64(0):
            members[n_found] = 64 * place + np.int64(popcount(~word & (word - np.uint64(1))))
            n_found += 1
            word &= word - np.uint64(1)
    return members


@inlined
def _linked(rows: Array, node: int, other: int) -> Int64:
    """1 or 0."""
    return np.int64((rows[node, other >> 6] >> np.uint64(other & 63)) & np.uint64(1))


@inlined
def _put(masks: Array, labels: Array, node: int, slot: int) -> None:
    """Move `node` from its slot, if it has one, to another."""
    bit = np.uint64(1) << np.uint64(node & 63)
    if labels[node] >= 0:
        masks[labels[node], node >> 6] ^= bit
    masks[slot, node >> 6] ^= bit
    labels[node] = slot


@compiled
def _numbered(graph: Graph, labels: Array) -> Communities:
    """The same partition in slots numbered by first node, and behind them an empty slot.

    Nodes may move out into the empty slot. A node with label -1 gets a slot of its own.
    """
    n_nodes = len(labels)
    slots, rank = np.empty(n_nodes, np.int64), np.full(n_nodes + 1, -1, np.int64)
    n_slots = 0
    for node in range(n_nodes):
        label = labels[node]  # -1 is the last place of `rank`
        if label < 0 or rank[label] < 0:
            rank[label] = n_slots
            n_slots += 1
        slots[node] = rank[label]
    communities = _no_communities(n_nodes, n_slots + 1, graph.rows.shape[1])
    for node in range(n_nodes):
        _put(communities.masks, communities.labels, node, slots[node])
        communities.volumes[slots[node]] += graph.degrees[node]
    return communities


@compiled
def _no_communities(n_nodes: int, n_slots: int, n_words: int) -> Communities:
    return Communities(
        np.full(n_nodes, -1, np.int64),
        np.zeros((n_slots, n_words), np.uint64),
        np.zeros(n_slots, np.int64),
    )


@compiled
def _graph(bits: Array) -> Graph:
    n_nodes, n_words = bits.shape
    padded = (n_words + WORDS_AT_ONCE - 1) // WORDS_AT_ONCE * WORDS_AT_ONCE
    rows = np.zeros((n_nodes, padded), np.uint64)
    rows[:, :n_words] = bits
    degrees = np.zeros(n_nodes, np.int64)
    for node in range(n_nodes):
        degrees[node] = _shared(rows, node, rows, node)
    return Graph(rows, degrees, _sorted_nodes(degrees), degrees.sum())


@compiled
def _sorted_nodes(degrees: Array) -> Array:
    """int64 (N,): nodes by degree, equal ones by number. Counting sort: no degree is above N."""
    starts = np.zeros(len(degrees) + 2, np.int64)
    for degree in degrees:
        starts[degree + 1] += 1
    for degree in range(len(degrees)):
        starts[degree + 1] += starts[degree]
    nodes = np.empty(len(degrees), np.int64)
    for node in range(len(degrees)):
        nodes[starts[degrees[node]]] = node
        starts[degrees[node]] += 1
    return nodes


@compiled
def _links_and_squares(graph: Graph, communities: Communities) -> tuple[Int64, Int64]:
    """Links inside communities, self loops once, and the sum of squared volumes."""
    rows, (labels, masks, volumes) = graph.rows, communities
    links = squares = 0
    for node in range(len(labels)):
        links += _shared(rows, node, masks, labels[node])
    for volume in volumes:
        squares += volume * volume
    return links, squares


@compiled
def _shuffle(order: Array, seed: int, run: int) -> None:
    """Fisher-Yates in place; the numbers are splitmix64 (Steele et al. 2014) of (seed, run)."""
    state = _scrambled(np.uint64(seed)) ^ np.uint64(run)
    for last in range(len(order) - 1, 0, -1):
        state += np.uint64(0x9E3779B97F4A7C15)
        other = np.int64(_scrambled(state) % np.uint64(last + 1))
        order[last], order[other] = order[other], order[last]


@compiled
def _scrambled(word: Any) -> Any:
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
