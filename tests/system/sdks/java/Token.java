import com.azure.core.credential.TokenCredential;
import com.azure.core.credential.TokenRequestContext;
import com.azure.identity.DefaultAzureCredentialBuilder;
import com.azure.identity.ManagedIdentityCredentialBuilder;

/**
 * An application that gets a token by azure-identity for Java.
 * usage: Token managed|chain SCOPE TIMES [client-id|resource-id|object-id ID]
 */
public final class Token {
    public static void main(String[] arguments) {
        TokenCredential credential = credential(arguments);
        try {
            for (int time = 0; time < Integer.parseInt(arguments[2]); time++) {
                TokenRequestContext request = new TokenRequestContext().addScopes(arguments[1]);
                System.out.println("token " + credential.getTokenSync(request).getToken());
            }
        } catch (RuntimeException error) {
            String message = String.valueOf(error.getMessage()).replaceAll("\\s+", " ");
            System.out.println("failed " + error.getClass().getSimpleName() + " " + message);
            System.exit(1);
        }
        System.exit(0); // the SDK's own threads would keep the process for a while
    }

    private static TokenCredential credential(String[] arguments) {
        if (arguments[0].equals("chain")) {
            return new DefaultAzureCredentialBuilder().build();
        }
        ManagedIdentityCredentialBuilder builder = new ManagedIdentityCredentialBuilder();
        if (arguments.length > 3) {
            switch (arguments[3]) {
                case "client-id" -> builder.clientId(arguments[4]);
                case "resource-id" -> builder.resourceId(arguments[4]);
                case "object-id" -> builder.objectId(arguments[4]);
                default -> throw new IllegalArgumentException(arguments[3]);
            }
        }
        return builder.build();
    }
}
