"""An atlas in a folder: one engine file, a text index and adjacencies, a cache of staged builds, swapped in whole.

===============  ====================================================================
:mod:`.store`    the contract of :class:`atlas.stores.Store`
:mod:`.folder`   the files, who holds them, and how one generation follows another
:mod:`.engine`   the one place that opens the engine; what its errors mean
:mod:`.rows`     rows into and out of an engine file
:mod:`.frames`   rows as DataFrames
:mod:`.index`    text search
:mod:`.readonly` somebody else's Cypher: what may run
:mod:`.asking`   … and the process it runs in
:mod:`.describe` descriptions, said and unsaid
:mod:`.doctor`   what is wrong
===============  ====================================================================
"""
