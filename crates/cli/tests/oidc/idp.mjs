// A real OpenID Connect provider (npm's oidc-provider), and ways to make it misbehave.
//
// It prints where it listens. `POST /fixture` changes what it is told, in the field that is named:
// redirect_uris, groups ({login: [...]}), in_userinfo, rotate, forge, refuse_keys. It ends with
// its standard input.
import { createHmac, generateKeyPairSync, sign } from 'node:crypto';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const modules = process.env.TALLY_FOREIGN_NODE_MODULES;
const library = pathToFileURL(join(modules, 'oidc-provider/lib/index.js')).href;
const { default: Provider } = await import(library);

const told = { redirect_uris: [], groups: {}, in_userinfo: false, forge: null, down: false };
let key, handle, rotations = 0;

function rotate() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  rotations += 1;
  const jwk = privateKey.export({ format: 'jwk' });
  key = { privateKey, jwk: { ...jwk, kid: `key-${rotations}`, use: 'sig', alg: 'RS256' } };
}

function build() {
  const common = { redirect_uris: told.redirect_uris, response_types: ['code'], grant_types: ['authorization_code'] };
  const secret = { client_secret: 'a secret: with & signs', token_endpoint_auth_method: 'client_secret_basic' };
  const provider = new Provider(issuer, {
    clients: [
      { client_id: 'tally', ...secret, ...common },
      { client_id: 'tally public', token_endpoint_auth_method: 'none', ...common },
    ],
    jwks: { keys: [key.jwk] },
    cookies: { keys: ['of a test'] },
    claims: { openid: ['sub'], profile: ['name'], email: ['email'], groups: ['groups'] },
    conformIdTokenClaims: told.in_userinfo,
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, name: `${id} <of a test>`, groups: told.groups[id] ?? [] }),
    }),
    pkce: { required: () => true },
    // For MCP servers: clients that register themselves, and tokens for one resource.
    scopes: ['openid', 'offline_access', 'mcp:use'],
    features: {
      devInteractions: { enabled: true },
      registration: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => ({ audience: resource, scope: 'mcp:use', accessTokenFormat: 'opaque' }),
      },
    },
  });
  provider.use(async (ctx, next) => {
    await next();
    if (told.forge && ctx.path === '/token' && ctx.body?.id_token) {
      ctx.body.id_token = forge(ctx.body.id_token, told.forge);
    }
  });
  handle = provider.callback();
}

// The same token with other claims, signed in another way where `by` says so.
function forge(token, { claims = {}, header = {}, by = 'own' }) {
  const part = (text) => JSON.parse(Buffer.from(text, 'base64url'));
  const [head, body] = token.split('.');
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const message = `${encode({ ...part(head), ...header })}.${encode({ ...part(body), ...claims })}`;
  const other = () => generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
  const spki = () => generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey.export({ type: 'spki', format: 'pem' });
  const signature = {
    own: () => sign('sha256', message, key.privateKey),
    other: () => sign('sha256', message, other()),
    nobody: () => Buffer.alloc(0),
    hmac: () => createHmac('sha256', spki()).update(message).digest(),
  }[by]();
  return `${message}.${signature.toString('base64url')}`;
}

const server = createServer(async (request, response) => {
  if (request.url === '/fixture') {
    let body = '';
    for await (const chunk of request) body += chunk;
    const change = JSON.parse(body);
    Object.assign(told, change);
    if (change.rotate) rotate();
    if (!('forge' in change)) build();
    response.end('{}');
  } else if (told.down) {
    response.writeHead(503).end();
  } else {
    handle(request, response);
  }
});
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;
rotate();
build();
console.log(`listening on ${issuer}`);
process.stdin.resume().on('end', () => process.exit());
