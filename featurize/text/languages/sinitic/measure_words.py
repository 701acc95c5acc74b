"""Units, currencies and measure words of Chinese texts."""

from __future__ import annotations

import re
from collections.abc import Collection

from headrace.featurize.text.languages.frontend import parse_pairs

CURRENCIES = parse_pairs(
    "HK$:港元 NT$:新台币 US$:美元 A$:澳元 C$:加元 S$:新加坡元 RMB:元 CNY:元 USD:美元 HKD:港元 EUR:欧元 JPY:日元 "
    "¥:元 $:美元 €:欧元 £:英镑 ₩:韩元 ₹:卢比 ₽:卢布 ฿:泰铢"
)
UNITS = parse_pairs(
    "km/h:公里每小时 km/s:千米每秒 m/s:米每秒 m/s²:米每二次方秒 m/min:米每分钟 km²:平方公里 km2:平方公里 km:千米 "
    "cm²:平方厘米 cm³:立方厘米 "
    "cm2:平方厘米 cm3:立方厘米 cm:厘米 mm²:平方毫米 mm2:平方毫米 mm:毫米 µm:微米 μm:微米 nm:纳米 dm:分米 m²:平方米 "
    "m³:立方米 m2:平方米 m3:立方米 m:米 ha:公顷 ft:英尺 mph:英里每小时 kg:千克 mg:毫克 µg:微克 μg:微克 g:克 lb:磅 "
    "oz:盎司 ml:毫升 mL:毫升 L:升 l:升 "
    "g/cm³:克每立方厘米 g/cm3:克每立方厘米 g/L:克每升 g/l:克每升 g/ml:克每毫升 mg/L:毫克每升 mg/l:毫克每升 "
    "mg/kg:毫克每千克 "
    "µg/m³:微克每立方米 μg/m³:微克每立方米 µg/m3:微克每立方米 kg/m³:千克每立方米 mmol/L:毫摩尔每升 "
    "dB:分贝 db:分贝 kHz:千赫 MHz:兆赫 GHz:吉赫 Hz:赫兹 kWh:千瓦时 kW·h:千瓦时 kW:千瓦 MW:兆瓦 W:瓦 mAh:毫安时 "
    "mV:毫伏 kV:千伏 V:伏 mA:毫安 kΩ:千欧 MΩ:兆欧 Ω:欧姆 kJ:千焦 kcal:千卡 cal:卡 kPa:千帕 MPa:兆帕 hPa:百帕 Pa:帕 "
    "mmHg:毫米汞柱 "
    "KB:千字节 GB:吉字节 MB:兆字节 TB:太字节 Mbps:兆比特每秒 Gbps:吉比特每秒 rpm:转每分钟 fps:帧每秒 px:像素 "
    "µs:微秒 μs:微秒 ns:纳秒 ms:毫秒 min:分钟 s:秒 h:小时 ℃:摄氏度 °C:摄氏度 ℉:华氏度 °F:华氏度 °:度"
)
_MEASURES = (
    "个 只 头 匹 条 尾 群 双 对 位 名 人 口 户 家 所 间 座 栋 幢 张 片 块 枚 颗 粒 根 支 枝 杆 把 件 套 身 床 台 "
    "架 辆 艘 列 节 本 册 页 篇 首 句 段 封 幅 部 场 次 回 遍 趟 顿 步 天 周 星期 小时 分钟 秒 时 点 分 刻 岁 "
    "世纪 代 元 角 毛 美元 欧元 英镑 日元 万 亿 千 百 斤 两 克 千克 公斤 吨 米 千米 公里 厘米 毫米 里 尺 寸 亩 升 平米 "
    "毫升 平方 立方 度 摄氏度 倍 杯 碗 瓶 盒 箱 袋 包 桶 盘 碟 锅 壶 篮 束 朵 棵 株 丛 滴 堆 排 行 队 组 班 批 种 类 "
    "样 "
    "项 门 笔 份 则 站 字 声 票 年 夜 個 隻 條 張 間 雙 對 層 顆 輛 冊 頁 節 場 歲 點 鐘 分鐘 小時 兩 塊 蚊 幾 樣 門 "
    "筆 則 聲 鍋 壺 籃 叢 種 類 項 組 隊 臺 棟 萬 億 公裡 鐘頭 餐 味 港元 人民币 公顷 英寸 英尺 盎司 磅 瓦 伏 分贝"
).split()
"""Measure words, simplified and traditional: before them, two is 两."""
_ORDINALS = "月 日 号 號 级 級 楼 樓 层 層 路 届 屆 期 季 集 课 課 章".split()
"""Words numbered in order without 第: before them, two is 二."""


def either(words: Collection[str]) -> str:
    """Return the pattern of some words, the longest first."""
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


UNIT, CURRENCY, MEASURE, ORDINAL = map(either, (UNITS, CURRENCIES, _MEASURES, _ORDINALS))
BARE_UNIT = either("km/h m/s m/s² km² cm² mm² m² m³ cm³ km cm mm kg mg ml mL mmHg".split())
"""Units that are said as words without a figure before them too."""
