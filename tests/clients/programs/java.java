import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.ArrayList;
import java.util.regex.Pattern;

/**
 * Java's own HttpClient as it is by default: it offers an upgrade to h2c with every request. Spring's RestClient,
 * LangChain4j, Quarkus and Ktor send through it.
 *
 * <p>Arguments: base URL, the body of a request, then the name of a case and its key, in turn. The findings go out as
 * JSON, as in `_report.py`.
 */
class Program {
    static final Pattern RESULT = Pattern.compile("\"index\":(\\d+),\"relevance_score\":([-+.\\dEe]+)");
    static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] arguments) throws Exception {
        String url = arguments[0], body = arguments[1];
        String[] names = {"length", "chunked"};
        var findings = new ArrayList<String>();
        for (String name : names) {
            var cases = new ArrayList<String>();
            for (int i = 2; i < arguments.length; i += 2) {
                if (arguments[i].equals("limited")) useUp(url, arguments[i + 1]);
                cases.add("\"%s\":%s".formatted(arguments[i], finding(url, arguments[i + 1], body, name.equals("chunked"))));
            }
            findings.add("\"java HttpClient, %s\":{%s}".formatted(name, String.join(",", cases)));
        }
        System.out.println("{" + String.join(",", findings) + "}");
    }

    static HttpResponse<String> post(String url, String key, String body, boolean chunked) throws Exception {
        byte[] bytes = body.getBytes("UTF-8");
        var publisher = BodyPublishers.ofByteArray(bytes);
        // One that does not know its length is sent in chunks, as Spring's RestClient does.
        var sent = chunked ? BodyPublishers.fromPublisher(publisher) : publisher;
        var request = HttpRequest.newBuilder(URI.create(url + "/v1/rerank"))
                .header("Content-Type", "application/json")
                .header("Authorization", "Bearer " + key)
                .timeout(Duration.ofSeconds(60))
                .POST(sent)
                .build();
        return CLIENT.send(request, BodyHandlers.ofString());
    }

    static String finding(String url, String key, String body, boolean chunked) throws Exception {
        long began = System.nanoTime();
        var answer = post(url, key, body, chunked);
        double took = (System.nanoTime() - began) / 1e9;
        if (answer.statusCode() != 200) {
            return "{\"error\":\"%d\",\"said\":\"\",\"took_s\":%.2f}".formatted(answer.statusCode(), took);
        }
        var ranking = new ArrayList<String>();
        for (var match = RESULT.matcher(answer.body()); match.find(); ) {
            ranking.add("[%s,%s]".formatted(match.group(1), match.group(2)));
        }
        return "{\"ranking\":[%s],\"took_s\":%.2f}".formatted(String.join(",", ranking), took);
    }

    /** Ask until the key may have no more for about two seconds. */
    static void useUp(String url, String key) throws Exception {
        String body = "{\"query\":\"q\",\"documents\":[\"" + "a ".repeat(200) + "\"]}";
        while (true) {
            var answer = post(url, key, body, false);
            boolean refused = answer.statusCode() == 429;
            if (refused && Integer.parseInt(answer.headers().firstValue("retry-after").get()) >= 2) return;
            if (refused) Thread.sleep(1000);
        }
    }
}
