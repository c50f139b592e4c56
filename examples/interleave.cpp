/*
 * Several generations of one model, a step of each in turn, as a server would run them; in C++.
 *
 *     interleave MODEL "Alice was" "Dracula was" "The whale was"
 */
#include <clusterfusion.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace
{

/* Each object of the library in a unique_ptr that frees it. */
template <auto free> struct Deleter {
    template <typename T> void operator()(T *object) const
    {
        free(object);
    }
};
using Model = std::unique_ptr<cf_model, Deleter<cf_model_close>>;
using Tokenizer = std::unique_ptr<cf_tokenizer, Deleter<cf_tokenizer_close>>;
using Session = std::unique_ptr<cf_session, Deleter<cf_session_free>>;
using Generation = std::unique_ptr<cf_generation, Deleter<cf_generation_free>>;

/* Calls one of the library's functions with an error at its end; throws its message. */
template <typename Function, typename... Arguments>
void call(Function function, Arguments... arguments)
{
    cf_error error;
    if (function(arguments..., &error) != CF_STATUS_OK)
        throw std::runtime_error(error.message);
}

std::vector<cf_token> encode(const cf_tokenizer *tokenizer, const std::string &text)
{
    std::vector<cf_token> ids(3 * text.size());
    size_t n = 0;
    call(cf_tokenizer_encode, tokenizer, text.data(), text.size(), 0u, ids.data(), ids.size(), &n);
    ids.resize(n);
    return ids;
}

struct Story {
    Session session; /* outlives its generation */
    Generation generation;
    std::string text;
    bool is_over = false;

    Story(const cf_model *model, const cf_tokenizer *tokenizer, const std::string &prompt)
        : text(prompt)
    {
        cf_session *new_session = nullptr;
        call(cf_session_create, model, nullptr, &new_session);
        session.reset(new_session);
        std::vector<cf_token> ids = encode(tokenizer, prompt);
        const char *stops[] = {".", "!", "?"};
        cf_generate_options options = {};
        options.size = sizeof options;
        options.stops = stops;
        options.n_stops = 3;
        cf_generation *new_generation = nullptr;
        call(cf_generation_begin, new_session, tokenizer, ids.data(), ids.size(), size_t(40),
             &options, &new_generation);
        generation.reset(new_generation);
    }

    void step()
    {
        cf_event event;
        call(cf_generation_next, generation.get(), &event);
        text.append(event.n_text > 0 ? event.text : "", event.n_text);
        is_over = event.kind == CF_EVENT_END;
    }
};

void run(const char *path, char **prompts, int n_prompts)
{
    cf_model *new_model = nullptr;
    call(cf_model_open, path, nullptr, &new_model);
    Model model(new_model);
    cf_tokenizer *new_tokenizer = nullptr;
    call(cf_tokenizer_open, path, &new_tokenizer);
    Tokenizer tokenizer(new_tokenizer);
    std::vector<Story> stories;
    for (int i = 0; i < n_prompts; i++)
        stories.emplace_back(model.get(), tokenizer.get(), prompts[i]);
    for (size_t n_over = 0; n_over < stories.size();)
        for (Story &story : stories)
            if (!story.is_over) {
                story.step();
                n_over += story.is_over;
            }
    for (const Story &story : stories)
        std::printf("%s.\n", story.text.c_str());
}

} // namespace

int main(int n_arguments, char **arguments)
{
    if (n_arguments < 3) {
        std::fprintf(stderr, "usage: interleave MODEL PROMPT...\n");
        return 2;
    }
    try {
        run(arguments[1], arguments + 2, n_arguments - 2);
    } catch (const std::exception &fault) {
        std::fprintf(stderr, "interleave: %s\n", fault.what());
        return 1;
    }
    return 0;
}
