#include "serve/metrics.h"

#include <inttypes.h>

static const double bounds_s[CF_N_BUCKETS] = {0.005, 0.01, 0.02, 0.05, 0.1, 0.2,
                                              0.5,   1,    2,    5,    10,  60};

void cf_histogram_add(cf_histogram *histogram, uint64_t ns)
{
    size_t i = 0;
    while (i < CF_N_BUCKETS && (double)ns * 1e-9 > bounds_s[i])
        i++;
    atomic_fetch_add(&histogram->buckets[i], 1);
    atomic_fetch_add(&histogram->sum_ns, ns);
}

static void print_one(cf_sink *sink, const char *name, const char *kind, const char *help,
                      uint64_t value)
{
    cf_sink_format(sink, "# HELP clusterfusion_%s %s\n# TYPE clusterfusion_%s %s\n", name, help,
                   name, kind);
    cf_sink_format(sink, "clusterfusion_%s %" PRIu64 "\n", name, value);
}

static void print_histogram(cf_sink *sink, const char *name, const char *help,
                            cf_histogram *histogram)
{
    cf_sink_format(sink, "# HELP clusterfusion_%s %s\n# TYPE clusterfusion_%s histogram\n", name,
                   help, name);
    uint64_t n = 0;
    for (size_t i = 0; i <= CF_N_BUCKETS; i++) {
        n += atomic_load(&histogram->buckets[i]);
        if (i < CF_N_BUCKETS)
            cf_sink_format(sink, "clusterfusion_%s_bucket{le=\"%g\"} %" PRIu64 "\n", name,
                           bounds_s[i], n);
        else
            cf_sink_format(sink, "clusterfusion_%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, n);
    }
    cf_sink_format(sink, "clusterfusion_%s_sum %.6f\nclusterfusion_%s_count %" PRIu64 "\n", name,
                   (double)atomic_load(&histogram->sum_ns) * 1e-9, name, n);
}

void cf_metrics_print(cf_metrics *metrics, cf_sink *sink)
{
    cf_sink_text(sink, "# HELP clusterfusion_responses_total HTTP responses by class of status.\n"
                       "# TYPE clusterfusion_responses_total counter\n");
    for (int class = 2; class <= 5; class ++)
        cf_sink_format(sink, "clusterfusion_responses_total{status=\"%dxx\"} %" PRIu64 "\n", class,
                       (uint64_t)atomic_load(&metrics->responses[class]));
    print_one(sink, "requests_refused_total", "counter", "Requests refused by a full queue.",
              atomic_load(&metrics->refused));
    print_one(sink, "requests_cancelled_total", "counter", "Requests whose client went away.",
              atomic_load(&metrics->cancelled));
    print_one(sink, "prompt_tokens_total", "counter", "Prompt tokens asked for.",
              atomic_load(&metrics->prompt_tokens));
    print_one(sink, "prompt_tokens_reused_total", "counter",
              "Prompt tokens that a KV cache already held.", atomic_load(&metrics->reused_tokens));
    print_one(sink, "scored_tokens_total", "counter", "Prompt tokens scored.",
              atomic_load(&metrics->scored_tokens));
    print_one(sink, "generated_tokens_total", "counter", "Tokens generated.",
              atomic_load(&metrics->generated_tokens));
    print_one(sink, "choices_running", "gauge", "Choices being computed.",
              atomic_load(&metrics->running));
    print_one(sink, "requests_waiting", "gauge", "Requests that nothing was computed for yet.",
              atomic_load(&metrics->waiting));
    print_one(sink, "connections", "gauge", "Open connections.",
              atomic_load(&metrics->connections));
    print_histogram(sink, "time_to_first_token_seconds", "From a request's arrival to its token.",
                    &metrics->first_token);
    print_histogram(sink, "request_duration_seconds", "From a request's arrival to its end.",
                    &metrics->request);
}
