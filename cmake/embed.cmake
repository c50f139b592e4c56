# Writes the file INPUT as a C array to OUTPUT.
file(READ ${INPUT} hex HEX)
string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE ${OUTPUT} "#include \"serve/page.h\"\n\n"
     "const unsigned char cf_page[] = {\n${bytes}};\n"
     "const size_t cf_page_bytes = sizeof cf_page;\n")
