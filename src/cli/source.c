#include "cli/source.h"

#include "base/status.h"
#include "cli/report.h"

#include <string.h>

int cf_source_check(const cf_source *source, cf_input *input)
{
    int n_given = (source->text != NULL) + (source->file != NULL) + (source->ids != NULL);
    if (n_given != 1)
        return cf_report_usage("expected one of --%s, --%s and --%s, found %s", source->text_option,
                               source->file_option, source->ids_option,
                               n_given == 0 ? "none" : "more");
    if (source->text != NULL && *source->text == 0)
        return cf_report_usage("--%s: expected at least one character, found nothing",
                               source->text_option);
    if (source->ids == NULL)
        return CF_EXIT_OK;
    cf_error error;
    if (cf_ids_parse(source->ids, strlen(source->ids), &input->ids, &error) != CF_STATUS_OK)
        return cf_report_usage("--%s: %s", source->ids_option, error.message);
    if (input->ids.n == 0)
        return cf_report_usage("--%s: expected at least one id, found nothing", source->ids_option);
    return CF_EXIT_OK;
}

cf_status cf_source_read(const cf_source *source, cf_input *input, cf_error *error)
{
    if (source->ids != NULL)
        return CF_STATUS_OK;
    FILE *stream;
    CF_TRY(cf_stream_open(source->text, source->file, &stream, error));
    cf_status status = cf_bytes_read(stream, source->file, &input->text, error);
    cf_stream_close(stream);
    return status;
}

cf_status cf_source_encode(const cf_source *source, const cf_tokenizer *tokenizer, cf_input *input,
                           cf_error *error)
{
    if (source->ids != NULL)
        return CF_STATUS_OK;
    CF_TRY(cf_ids_encode(tokenizer, input->text.data, input->text.n, 0, &input->ids, error));
    if (input->ids.n == 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "%s: expected text of at least one token, found %zu bytes that give none",
                       source->file != NULL ? source->file : source->text_option, input->text.n);
    return CF_STATUS_OK;
}

void cf_input_free(cf_input *input)
{
    cf_bytes_free(&input->text);
    cf_ids_free(&input->ids);
}
