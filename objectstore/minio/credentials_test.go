package minio

import (
	"os"
	"path/filepath"
	"testing"
)

// clean hides what this machine's user has.
func clean(t *testing.T) (home string) {
	t.Helper()
	home = t.TempDir()
	t.Setenv("HOME", home)
	for _, name := range []string{"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "AWS_ACCESS_KEY_ID",
		"AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "MC_CONFIG_DIR"} {
		t.Setenv(name, "")
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	return home
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

const mcConfig = `{"version":"10","aliases":{
	"play":  {"url":"https://play.example.com","accessKey":"play-a","secretKey":"play-s","api":"s3v4","path":"auto"},
	"local": {"url":"http://127.0.0.1:9000","accessKey":"file-a","secretKey":"file-s","api":"s3v4","path":"auto"},
	"empty": {"url":"http://127.0.0.1:9001","accessKey":"","secretKey":""}}}`

// Each source in turn: the chain takes the first that has keys.
func TestCredentialChain(t *testing.T) {
	for _, tc := range []struct {
		name   string
		env    map[string]string
		mc     string
		aws    string
		host   string
		tls    bool
		access string
		secret string
		token  string
	}{
		{name: "root", env: map[string]string{"MINIO_ROOT_USER": "root-a", "MINIO_ROOT_PASSWORD": "root-s", "MINIO_ACCESS_KEY": "x", "MINIO_SECRET_KEY": "x"}, access: "root-a", secret: "root-s"},
		{name: "keys", env: map[string]string{"MINIO_ACCESS_KEY": "key-a", "MINIO_SECRET_KEY": "key-s", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}, access: "key-a", secret: "key-s"},
		{name: "half of root", env: map[string]string{"MINIO_ROOT_USER": "root-a", "MINIO_ACCESS_KEY": "key-a", "MINIO_SECRET_KEY": "key-s"}, access: "key-a", secret: "key-s"},
		{name: "aws", env: map[string]string{"AWS_ACCESS_KEY_ID": "aws-a", "AWS_SECRET_ACCESS_KEY": "aws-s", "AWS_SESSION_TOKEN": "aws-t"}, mc: mcConfig, access: "aws-a", secret: "aws-s", token: "aws-t"},
		{name: "mc variable", env: map[string]string{"MC_HOST_other": "https://a:b@elsewhere", "MC_HOST_me": "http://env-a:s3cr/t+@127.0.0.1:9000"}, mc: mcConfig, access: "env-a", secret: "s3cr/t+"},
		{name: "mc variable with a token", env: map[string]string{"MC_HOST_me": "http://env-a:env-s:env-t@127.0.0.1:9000/"}, access: "env-a", secret: "env-s", token: "env-t"},
		{name: "mc file", mc: mcConfig, aws: "[default]\naws_access_key_id=x\naws_secret_access_key=x\n", access: "file-a", secret: "file-s"},
		{name: "mc file, default port", mc: mcConfig, host: "play.example.com:443", tls: true, access: "play-a", secret: "play-s"},
		{name: "mc file, other scheme", mc: mcConfig, tls: true, aws: "[default]\naws_access_key_id=prof-a\naws_secret_access_key=prof-s\n", access: "prof-a", secret: "prof-s"},
		{name: "mc file without keys", mc: mcConfig, host: "127.0.0.1:9001", aws: "[default]\naws_access_key_id=prof-a\naws_secret_access_key=prof-s\n", access: "prof-a", secret: "prof-s"},
		{name: "mc file that is none", mc: "{", aws: "[default]\naws_access_key_id=prof-a\naws_secret_access_key=prof-s\n", access: "prof-a", secret: "prof-s"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			home := clean(t)
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			if tc.mc != "" {
				write(t, filepath.Join(home, ".mc", "config.json"), tc.mc)
			}
			if tc.aws != "" {
				write(t, filepath.Join(home, ".aws", "credentials"), tc.aws)
			}
			host := tc.host
			if host == "" {
				host = "127.0.0.1:9000"
			}
			v, err := Credentials(host, tc.tls).GetWithContext(nil)
			if err != nil {
				t.Fatal(err)
			}
			if v.AccessKeyID != tc.access || v.SecretAccessKey != tc.secret || v.SessionToken != tc.token {
				t.Errorf("got %q %q %q, want %q %q %q", v.AccessKeyID, v.SecretAccessKey, v.SessionToken, tc.access, tc.secret, tc.token)
			}
		})
	}
}
