"""Masks that a person corrected, as annotation tools give them back: a path in, labels out.

    open_corrections(path)     -> Corrections: class names, and uint8 (H, W) of one image at a time

    records       Corrections
    detect        which format a path holds, told by its content
    files         a folder, a zip or one file, all read alike
    pngs          label PNGs with or without class names; CVAT's "Segmentation mask 1.1", Pascal VOC
    coco          COCO instances (run lengths and polygons) and COCO panoptic
    labelstudio   Label Studio's JSON (brushes and polygons)
    shapes        run lengths and polygons -> pixels
    matching      names of a tool -> images of a run
    folders       any of these as the folder that `datus fit` reads

The layouts are those of `datus.formats`, read the other way round. 255 is "nothing is said here".
"""
