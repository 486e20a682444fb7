"""A new plugin package: from a name to a folder that installs, trains and passes its tests as written."""
