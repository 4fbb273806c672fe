"""What the scripts of the folder above share. A script is run by its path, so its folder is where Python looks."""
