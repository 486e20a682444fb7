"""New plugin packages: from a name to a folder that can be installed and trained, and that passes its tests."""
