"""The token store: one Zarr 3 hierarchy that both halves of fmritok agree on.

===============  =====================================================================
module           what it does
===============  =====================================================================
``names``        what groups, runs, tables, columns and files are called, and may be
``location``     where a store lives: a local folder or an fsspec URL; atomic writes
``disk``         files on a local disk: written whole, read with bounds
``documents``    what the JSON of a store must look like
``seal``         sealed ``zarr.json`` documents, and the files they vouch for
``table``        a pandas table as zarr arrays; missing values stay missing
``arrays``       small arrays from their files, within the memory
``switch``       replace tables, all at once, by one write of a document
``root``         the root of a store: its format, groups and tables
``schema``       names, shapes and codecs of a token group
``group``        make a token group, open it with its seal checked, lengthen it
``difference``   the first field in which two configurations differ
``annotations``  phenotypes, their columns, events: tables of the root
``precision``    int8 residuals and float16: what is stored for one run, and back
``codec``        chunks and shards as bytes
``shard_files``  files of chunks, open with their index, local or remote
``shards``       read rows of an array straight from its files
``layout``       how arrays lie in their files
``runs_check``   what tables and static arrays must say
``records``      completion records: a run exists when its record exists
``writer``       write one run: shards, statistics, read back
``runs_table``   the tables of a group, and folding records into them
``ledger``       which run owns which frames of a group
``reader``       read finished runs (the only module that training needs)
``verify``       read everything back against its checksums; drop what is damaged
``mending``      make damaged tables again from the records
``holder``       the process that holds a lock or a lease
``lock_file``    locks on a disk
``lease``        leases on an object store
``locking``      one writer of a group at a time, by either
===============  =====================================================================
"""
