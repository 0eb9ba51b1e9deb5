package podcni

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

const templateText = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"a","first":"{{.PodCIDR}}",
	"all":[{{range $i, $c := .PodCIDRs}}{{if $i}},{{end}}"{{$c}}"{{end}}],
	"routes":[{{range $i, $r := .Routes}}{{if $i}},{{end}}{"dst":"{{$r}}"}{{end}}]}]}`

func TestTemplate(t *testing.T) {
	t.Parallel()
	b := newBench(t, WithConfTemplate(templateText), WithConfList([]byte(list("mem", "1.0.0", "a")))).plugin("a")
	b.write("0.conf", list("file", "1.0.0", "a"))
	s := b.load(nil)
	require.Equal(t, []string{"mem", "file"}, names(s))
	require.Equal(t, []string{"WithConfTemplate"}, rejectedPaths(s))
	require.ErrorIs(t, s.rejected[0].Err, errNoPodCIDRs)

	v6, v4 := netip.MustParsePrefix("fd00:1::5/64"), netip.MustParsePrefix("10.1.2.3/24")
	require.NoError(t, b.l.setPodCIDRs([]netip.Prefix{v6, v4, v4}))
	s = b.load(s)
	require.Equal(t, []string{"mem", "pods", "file"}, names(s))
	require.Empty(t, s.rejected)
	require.Equal(t, `{"cniVersion":"1.0.0","name":"pods","type":"a","first":"fd00:1::/64","all":["fd00:1::/64","10.1.2.0/24","10.1.2.0/24"],`+
		`"routes":[{"dst":"::/0"},{"dst":"0.0.0.0/0"}]}`, string(s.byName["pods"].plugins[0].head))

	for _, bad := range [][]netip.Prefix{nil, {{}}, {v4, {}}} {
		err := b.l.setPodCIDRs(bad)
		require.ErrorIs(t, err, ErrInvalidConfig)
		var conf *ConfigError
		require.ErrorAs(t, err, &conf)
	}
	require.True(t, s.same(b.load(s)), "the last one stays")
	require.NoError(t, b.l.setPodCIDRs([]netip.Prefix{v4}))
	require.False(t, s.same(b.load(s)))
	require.NoError(t, newBench(t).l.setPodCIDRs(nil), "there is nothing to render")
}

func TestTemplateThatIsNoNetwork(t *testing.T) {
	t.Parallel()
	cidrs := []netip.Prefix{netip.MustParsePrefix("10.1.2.0/24")}
	for _, text := range []string{
		"", "text", `{"name":"x"}`, `{"name":"{{.PodCIDR}}","type":"a"}`, `{{.Nothing}}`, `{{index .PodCIDRs 1}}`,
		`{{define "x"}}{{range $i := .}}{{printf "%100000s" ""}}{{end}}{{end}}{{template "x" slice (printf "%9999s" "") 0 20}}`,
	} {
		b := newBench(t, WithConfTemplate(text))
		require.ErrorIs(t, b.l.setPodCIDRs(cidrs), ErrInvalidConfig, text)
	}
	o, err := newOptions([]Option{WithConfTemplate("{{")})
	require.NoError(t, err)
	_, err = newLoader(o, nil)
	require.ErrorIs(t, err, ErrInvalidOption)
	require.ErrorIs(t, err, ErrInvalidConfig)
}
