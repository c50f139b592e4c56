/* What this process may use of the machine: processors and memory. */
#include "backend/cpu/cpu.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

/* Whether a number follows: "max" stands for no limit. */
static bool begins_number(const char *text)
{
    return text[strspn(text, " \t")] >= '0' && text[strspn(text, " \t")] <= '9';
}

/* The number after `label` in the first line of `path` that begins with it; UINT64_MAX: none. */
static uint64_t find_number(const char *path, const char *label)
{
    char line[256];
    unsigned long long number = UINT64_MAX;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return UINT64_MAX;
    while (number == UINT64_MAX && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, label, strlen(label)) == 0 && begins_number(line + strlen(label)))
            number = strtoull(line + strlen(label), NULL, 10);
    fclose(file);
    return number;
}

uint64_t cf_cpu_available_bytes(void)
{
    uint64_t kilobytes = find_number("/proc/meminfo", "MemAvailable:");
    uint64_t available = kilobytes < UINT64_MAX / 1024 ? kilobytes * 1024 : UINT64_MAX;
    /* What the group has in use is mostly page cache, which it can give back. */
    uint64_t granted = find_number("/sys/fs/cgroup/memory.max", "");
    return granted < available ? granted : available;
}
