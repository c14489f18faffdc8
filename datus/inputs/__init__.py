"""What people give: images, true masks, tables of classes."""
