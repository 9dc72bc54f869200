"""The token store: one Zarr 3 hierarchy, written by the pipeline and read by the trainer.

===========================  ==============================================================
module                       contents
===========================  ==============================================================
``reader``                   read finished runs (the only module that training needs)
``writer``                   write one run: shards, statistics, read back
``schema``                   names, shapes and codecs of a token group
``group``                    create, open and lengthen a token group
``ledger``                   assign frames of a group to runs
``records``                  completion records: a run exists when its record exists
``precision``                int8 residuals and float16: convert tokens, and back
``verify``                   compare everything with its checksums; drop damaged runs
``damage``                   what is damaged; files of a group compared with its seal
``location``                 a local folder or an fsspec URL; atomic writes
``disk``                     files on a local disk: atomic writes, bounded reads
``names``                    valid names of groups, runs, tables, columns and files
``chunks.arrays``            read small arrays from their files, within the memory
``chunks.codec``             encode and decode chunks and shards
``chunks.layout``            layout of arrays in their files, from their metadata
``chunks.shard_files``       open files of chunks with their index, local or remote
``chunks.shards``            read rows of an array directly from its files
``documents.checks``         checks of the JSON documents of a store
``documents.difference``     the first field in which two configurations differ
``documents.root``           the root of a store: format, groups and tables
``documents.seal``           sealed ``zarr.json`` documents with checksums of files
``locks.holder``             the process that holds a lock or a lease
``locks.lease``              leases on an object store
``locks.lock_file``          lock files on a disk
``locks.locking``            one writer of a group at a time, by lock file or lease
``tables.annotations``       phenotypes, their columns, and events: tables of the root
``tables.mending``           rebuild damaged tables from the records
``tables.phenotype_counts``  number of subjects and values of phenotype columns
``tables.runs_check``        checks of tables and static arrays
``tables.runs_table``        the ``runs`` table of a group, updated from the records
``tables.switch``            replace tables by one atomic write of a document
``tables.table``             a pandas table as zarr arrays, with missing values
===========================  ==============================================================
"""
