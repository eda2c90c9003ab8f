"""De-identification of DICOM files: an allow-list first, PS3.15 Table E.1-1 second, checks of every value third.

- intake walks a store, opens files safely, and names what is no DICOM file.
- reader is the strict parser: a file's structure without its values, or the code under which it is quarantined.
- modules says which attributes each SOP class may keep; terms, which words text may hold.
- profile has Table E.1-1 and the options of CID 7050, and makes the rules of a SOP class from all of these; attributes
  says which function an attribute's value must pass, values has the functions.
- cleaner applies the rules at every depth, and writes a new explicit VR little endian header.
- pseudonyms are patients, UIDs and dates under the site's key.
- pixels and burned_in look after pixel data and the text in it; lettering finds letters in an image.
- selfcheck, with original, is the independent check before a file gets its name.
- vault is the site's memory: the state of every input, and identities under encryption.
- workers are the children with limits of memory and time; run is the parent that counts, names and commits.
- manifest, verification, report and inspection tell what was done; inbox is for what arrives over a network.
"""
