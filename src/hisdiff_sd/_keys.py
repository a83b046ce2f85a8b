"""Names of the elements and keys of a store, in one place."""

HE = "he"
SPOTS = "spots"
TABLE = "table"
PREDICTION = "hisdiff"
ATTRS = "hisdiff_sd"  # key of sdata.attrs and of table.uns
REGION = "region"
INSTANCE = "instance_id"
SCHEMA_VERSION = 1
