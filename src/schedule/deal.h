/* Dealing a schedule's tiles out to its blocks: the second half of cf_schedule_create(). */
#ifndef CF_SCHEDULE_DEAL_H
#define CF_SCHEDULE_DEAL_H

#include "schedule/schedule.h"

/*
 * Fills in `shares`, `tiles`, `max_units` and `max_tiles` from the sizes and phases. OUT_OF_MEMORY;
 * what is allocated then, cf_schedule_free() frees.
 */
cf_status cf_schedule_deal(cf_schedule *schedule, cf_error *error);

#endif
