"""The report: which classes a classifier confuses, by which texts, and what to do (extra `labeldist[report]`)."""
