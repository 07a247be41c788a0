/* to be filled */ #include "gfserver.h"
