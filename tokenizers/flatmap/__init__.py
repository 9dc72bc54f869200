"""``flatmap``: cortical activity on a flat map, cut into cells of 16 x 16 pixels."""
