"""House style of all pictures; needs matplotlib when a picture is drawn."""
