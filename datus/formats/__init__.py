"""Masks in the layouts of other tools: images, labels and class names in, a folder out.

    records      what a writer is given: Item, Classes, Options
    parts        label image -> connected parts with area, box, score and COCO runs
    outlines     one part -> one closed path, holes cut in, for tools that want polygons
    pngs         png, voc, cvat
    coco         coco, coco-panoptic
    yolo, labelstudio, fiftyone_disk, parquet
    formats      the table of formats
    folder       the whole folder or none of it

A writer is `write(folder, items, classes, options)`. Items come one at a time and none is kept, so
memory does not grow with their number but for one line an image in tables that JSON wants whole.
`export_run` makes the items of a finished run.
"""
