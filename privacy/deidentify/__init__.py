"""De-identification of DICOM files: an allow-list first, PS3.15 Table E.1-1 with its options second, value checks
third.

intake      walks a store, opens files safely, names what is no DICOM file
reader      strict parser: a file's structure without its values, or the code under which it is quarantined
modules     which attributes each SOP class may keep; terms, the words that text may hold
profile     Table E.1-1, the options of CID 7050, and from both the rules of a SOP class
cleaner     applies the rules, at every depth, and writes a new explicit VR little endian header
pseudonyms  the site's key: patients, UIDs and dates by HMAC-SHA256
selfcheck   its own parser and its own tests over what was written, before a file gets its name
vault       SQLite at the site: the state of every input, and identities under encryption
workers     child processes with limits of memory and time; run, the parent that counts, renames and commits
"""
