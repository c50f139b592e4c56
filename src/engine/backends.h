/* Which backends this library was built with, and which of them to use. */
#ifndef CF_ENGINE_BACKENDS_H
#define CF_ENGINE_BACKENDS_H

#include "backend/backend.h"

/* AUTO gives the first that can run here. Errors: as cf_backend_check(). */
cf_status cf_backend_choose(cf_backend wanted, const cf_backend_interface **backend,
                            cf_error *error);

#endif
