"""DatUS: semantic masks from unlabelled images.

A folder of images goes in; one dense pseudo-mask per image comes out, its classes shared by the
whole folder. No labels, no training (Kumar, Sur and Baruah, "DatUS", section III).

The package reads top to bottom: `images`, `backbones`, `affinity`, `louvain`, `segments`,
`embeddings`, `clusters`, `masks` and `metrics` are the method, arrays in and arrays out. `store`,
`executors` and `runner` are the machine around it. `stages` is the table that joins the two.
"""

__version__ = "0.1.0"
