/* clusterfusion serve: the model behind OpenAI's HTTP protocol. */
#include "serve/server.h"

#include "base/status.h"
#include "cli/command.h"
#include "cli/open.h"
#include "cli/report.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

/* What runs when a signal comes may go on this long. */
#define GRACE_S 10

typedef struct serve_args {
    cf_model_args model;
    const char *host, *alias, *api_key, *chat_template;
    size_t port, n_parallel, max_queue, max_body_mib, timeout_s;
} serve_args;

#define FIELD(name) offsetof(serve_args, name)

static const cf_option serve_options[] = {
    CF_ROW_MODEL(serve_args),
    CF_ROW_TOKENIZER(serve_args),
    {.name = "host",
     .kind = CF_OPTION_TEXT,
     .value = "HOST",
     .offset = FIELD(host),
     .preset = "127.0.0.1",
     .help = "The address to listen at; 0.0.0.0 or :: is all of the machine's."},
    {.name = "port",
     .kind = CF_OPTION_COUNT,
     .value = "N",
     .offset = FIELD(port),
     .max = 65535,
     .preset = "8080",
     .help = "The port to listen at; 0: any that is free."},
    {.name = "alias",
     .kind = CF_OPTION_TEXT,
     .value = "NAME",
     .offset = FIELD(alias),
     .help = "What clients see the model called. Default: its folder's name."},
    {.name = "api-key",
     .kind = CF_OPTION_TEXT,
     .value = "KEY",
     .offset = FIELD(api_key),
     .help = "Answer only requests with the header \"Authorization: Bearer KEY\"."},
    {.name = "chat-template",
     .kind = CF_OPTION_TEXT,
     .value = "TEXT",
     .offset = FIELD(chat_template),
     .help = "Answer /v1/chat/completions too: what a message becomes, with {role} and {content} "
             "in it."},
    {.name = "parallel",
     .kind = CF_OPTION_COUNT,
     .value = "N",
     .offset = FIELD(n_parallel),
     .min = 1,
     .max = 256,
     .preset = "4",
     .help = "Texts that are computed in turns; each takes the memory of a session."},
    {.name = "max-queue",
     .kind = CF_OPTION_COUNT,
     .value = "N",
     .offset = FIELD(max_queue),
     .max = 65536,
     .preset = "1024",
     .help = "Requests that may wait; what comes then is answered with 429."},
    {.name = "max-body",
     .kind = CF_OPTION_COUNT,
     .value = "MIB",
     .offset = FIELD(max_body_mib),
     .min = 1,
     .max = 256,
     .preset = "8",
     .help = "The largest body of a request that is taken, in MiB."},
    {.name = "timeout",
     .kind = CF_OPTION_COUNT,
     .value = "S",
     .offset = FIELD(timeout_s),
     .min = 1,
     .max = 3600,
     .preset = "60",
     .help = "Close connections that are silent for this many seconds."},
    CF_ROW_CONTEXT(serve_args, "the model's"),
    CF_ROW_THREADS(serve_args),
    CF_ROW_BACKEND(serve_args),
    CF_ROW_KV(serve_args),
    {0},
};

/* Blocked before any thread is started, which all inherit it: the main thread waits for them. */
static void block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, set, NULL);
}

static void run_until_signal(cf_server *server, const sigset_t *set)
{
    int signal;
    fprintf(stderr, "listening on %s\n", cf_server_url(server));
    sigwait(set, &signal);
    fprintf(stderr, "stopping; what runs may take %d s more\n", GRACE_S);
    pthread_sigmask(SIG_UNBLOCK, set, NULL); /* the second one kills */
    cf_server_stop(server, GRACE_S);
}

static const char *name_of(const serve_args *args, const cf_model *model)
{
    if (args->alias != NULL)
        return args->alias;
    const char *path = cf_model_info_get(model)->path;
    const char *slash = strrchr(path, '/');
    return slash != NULL && slash[1] != 0 ? slash + 1 : path;
}

static cf_status serve(const serve_args *args, const cf_opened *opened, const sigset_t *set,
                       cf_error *error)
{
    cf_session_options session = cf_open_session_options(&args->model);
    cf_server_options options = {
        .host = args->host,
        .port = (uint16_t)args->port,
        .model = opened->model,
        .tokenizer = opened->tokenizer,
        .name = name_of(args, opened->model),
        .api_key = args->api_key,
        .chat_template = args->chat_template,
        .n_parallel = args->n_parallel,
        .max_queue = args->max_queue,
        .max_body_bytes = args->max_body_mib << 20,
        .timeout_s = (unsigned)args->timeout_s,
        .session = &session,
    };
    cf_server *server;
    CF_TRY(cf_server_start(&options, &server, error));
    run_until_signal(server, set);
    cf_server_free(server);
    return CF_STATUS_OK;
}

static int run(int argc, char **argv)
{
    serve_args args = {0};
    int code = cf_options_parse(&cf_command_serve, argc, argv, &args);
    if (code != CF_OPTIONS_RUN)
        return code;
    if (args.api_key != NULL && *args.api_key == 0)
        return cf_report_usage("--api-key: expected at least one character, found nothing");
    if (args.alias != NULL && *args.alias == 0)
        return cf_report_usage("--alias: expected at least one character, found nothing");
    sigset_t set;
    cf_opened opened = {0};
    cf_error error;
    cf_progress progress = {0};
    cf_status status = cf_open_model(&args.model, &progress, &opened.model, &error);
    if (status == CF_STATUS_OK)
        status = cf_open_tokenizer(&args.model, NULL, &opened.tokenizer, &error);
    block_signals(&set);
    if (status == CF_STATUS_OK)
        status = serve(&args, &opened, &set, &error);
    cf_open_close(&opened);
    return status == CF_STATUS_OK ? CF_EXIT_OK : cf_report_error(&error);
}

const cf_command cf_command_serve = {
    .name = "serve",
    .summary = "answer OpenAI's HTTP protocol, and a page to try the model",
    .synopsis = "[-m DIR] [--host HOST] [--port N] [OPTION]...",
    .description =
        "Serves a model over HTTP: POST /v1/completions in OpenAI's form, streamed or\n"
        "not, with log-probabilities of prompts too; GET /v1/models; POST /tokenize and\n"
        "/detokenize; GET /health and /metrics; and a page to try it at /.\n"
        "docs/server.md describes fields, limits and errors.\n"
        "\n"
        "Several requests are computed in turns, and a prompt that begins like one before\n"
        "takes over what was computed for it. SIGTERM or Ctrl-C ends the server: requests\n"
        "that wait are refused, those that run may take 10 s more. A second one kills.\n"
        "\n"
        "Anybody who reaches the port can use the model. Listen at other addresses than\n"
        "the default only in a network that is trusted, or with --api-key.\n",
    .options = serve_options,
    .examples =
        "  clusterfusion serve\n"
        "  clusterfusion serve -m pythia-160m --port 8000 --parallel 8\n"
        "  curl http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \\\n"
        "      -d '{\"prompt\": \"It was a bright morning\", \"max_tokens\": 32}'\n",
    .run = run,
};
