"""The token store: one Zarr 3 hierarchy that both halves of fmritok agree on.

==============  ======================================================================
module          what it does
==============  ======================================================================
``location``    where a store lives: a local folder or an fsspec URL; atomic writes
``schema``      names, shapes and codecs of a token group; creating and growing one
``precision``   int8 residuals and float16: what is stored for one run, and back
``records``     completion records: a run exists when its record exists
``difference``  the first field in which two configurations differ
``table``       a pandas table as zarr arrays
``writer``      write one run: shards, statistics, record, in that order
``ledger``      which run owns which frames; folding records into the runs table
``reader``      read finished runs (the only module that training needs)
``shards``      read frames of a local store straight from its files
``verify``      read everything back against its checksums
==============  ======================================================================
"""
