"""What the tests, the benches and the demo share; no part of the installed package.

``tpc`` makes data and query texts, ``compare`` judges results, ``apps`` runs PySpark applications
through spark-submit, ``cluster`` a standalone cluster, ``eventlog`` says what ran, ``disk`` samples
local shuffle files, ``cpu`` counts processor time.
"""
