"""Masks in the layouts of other tools, both ways.

    formats, folder    the table of formats; a folder that is written whole or not at all
    export             the masks of a finished run -> items for a writer
    read, matching     which format a path holds; its names -> the images of a run
    records            what a writer is given: Item, Classes, Options; a reader gives Corrections
    parts, polygons    label image -> connected parts; part -> closed path, and back

Every other module is one format. A writer is `write(folder, items, classes, options)`. Items come
one at a time and none is kept, so memory does not grow with their number but for one line an image
in tables that JSON wants whole.
"""
