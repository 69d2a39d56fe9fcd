// The certified authorization server `oidc-provider`, configured as a stranger's would be: PKCE, dynamic registration,
// resource indicators, rotating refresh tokens. Prints its address, and ends with its standard input.
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const lifetime = Number(process.argv[2]);
const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id: 'by-hand', client_secret: 'by-hand-secret', token_endpoint_auth_method: 'client_secret_post',
      redirect_uris: ['http://gateway.example/api/v1/mcp/oauth/callback'],
      grant_types: ['authorization_code', 'refresh_token'],
    }],
    cookies: { keys: ['a key of this test run'] },
    features: {
      devInteractions: { enabled: true },
      registration: { enabled: true },
      revocation: { enabled: true },
      introspection: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        useGrantedResource: () => true,
        getResourceServerInfo: (_ctx, resource) => ({
          scope: 'read write', audience: resource, accessTokenTTL: lifetime, accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
    scopes: ['openid', 'offline_access', 'read', 'write'],
    pkce: { required: () => true },
    rotateRefreshToken: true,
    ttl: { AccessToken: lifetime, RefreshToken: 86400, Grant: 86400, Session: 3600, Interaction: 600, IdToken: 600 },
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
