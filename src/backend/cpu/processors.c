/* How many processors this process may keep busy. */
#include "backend/cpu/cpu.h"

#include <sched.h>
#include <stdio.h>
#include <unistd.h>

/* The first two numbers of a file; "max" and what cannot be read count as -1. */
static void read_pair(const char *path, long long *a, long long *b)
{
    *a = *b = -1;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return;
    if (fscanf(file, "%lld %lld", a, b) < 1)
        *a = -1;
    fclose(file);
}

/* Processors' worth of time that the control group grants; -1: no limit known. */
static long long quota(void)
{
    long long time, period, unused;
    read_pair("/sys/fs/cgroup/cpu.max", &time, &period);
    if (time <= 0) {
        read_pair("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &time, &unused);
        read_pair("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &period, &unused);
    }
    return time > 0 && period > 0 ? (time + period - 1) / period : -1;
}

int32_t cf_cpu_count(void)
{
    cpu_set_t set;
    long long count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                                  : sysconf(_SC_NPROCESSORS_ONLN);
    long long granted = quota();
    if (granted > 0 && granted < count)
        count = granted;
    return count < 1 ? 1 : count > 1024 ? 1024 : (int32_t)count;
}
